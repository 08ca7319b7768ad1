"""How long a step takes where it counts: in one environment, with the physics in between."""

from __future__ import annotations

import time

import numpy as np

from agents.acting.policy import Policy
from agents.evaluation.compare import Line, Plan
from agents.evaluation.evaluator import Result, exact_matmul
from envs.rollout import rollout
from envs.worlds.spec import EnvSpec


class Stopwatch:
    """An actor that notes the seconds of each call of another."""

    def __init__(self, actor: Policy) -> None:
        self.actor, self.seconds = actor, list[float]()

    def __call__(
        self, obs: np.ndarray, reward: np.ndarray, resets: np.ndarray, episode: np.ndarray
    ) -> np.ndarray:
        """Act as the other does."""
        before = time.perf_counter()
        actions = self.actor(obs, reward, resets, episode)
        self.seconds.append(time.perf_counter() - before)
        return actions


def measure(line: Line, plan: Plan) -> np.ndarray:
    """Play the longest episode of a line again, alone; return the seconds (T,) of each step.

    With the first of its agents. The first step is left out: it pays for what is set up once.
    """
    longest = max(line.results, key=lambda result: _lengths(result).max())
    episode = int(_lengths(longest).argmax())
    agent, facts = line.members[0].model, line.members[0].facts
    policy = Policy(
        agent, [longest.target], window=line.window, device=plan.device, engine=plan.engine
    )
    watch = Stopwatch(policy)
    with exact_matmul():
        rollout(EnvSpec.from_json(facts), watch, [plan.seed + episode], num_envs=1)
    return np.array(watch.seconds[1:] or watch.seconds)


def _lengths(result: Result) -> np.ndarray:
    # Of the first run's episodes; one that failed would do so again.
    return result.by_run(np.where(result.finished, result.lengths, 0))[0]
