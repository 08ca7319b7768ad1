"""The time that a step takes in one environment, with the physics in between."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from agents.acting.policy import Policy
from agents.evaluation.compare import Line
from agents.evaluation.evaluate import exact_matmul
from agents.evaluation.result import Result
from envs.rollout import rollout


class Stopwatch:
    """An actor that records the seconds of each call of another."""

    def __init__(self, actor: Policy) -> None:
        self.actor, self.seconds = actor, list[float]()

    def __call__(
        self, obs: np.ndarray, reward: np.ndarray, resets: np.ndarray, episode: np.ndarray
    ) -> np.ndarray:
        """Return the actions of the other actor."""
        before = time.perf_counter()
        actions = self.actor(obs, reward, resets, episode)
        self.seconds.append(time.perf_counter() - before)
        return actions


def measure(line: Line) -> np.ndarray:
    """Play the longest episode of a line's first agent again, alone; return seconds (T,) a step."""
    spec, model = line.spec, line.members[0].model
    longest = max(line.results, key=lambda result: _lengths(result).max())
    episode = int(_lengths(longest).argmax())
    options: Any = {"window": spec.window, "device": spec.device, "engine": spec.engine}
    watch = Stopwatch(Policy(model, [longest.target], **options))
    with exact_matmul():
        rollout(line.env, watch, [spec.seed + episode], num_envs=1)
    return np.array(watch.seconds[1:] or watch.seconds)  # the first includes the set-up


def _lengths(result: Result) -> np.ndarray:
    # Of the first run's episodes; one that failed would do so again.
    return result.by_run(np.where(result.finished, result.lengths, 0))[0]
