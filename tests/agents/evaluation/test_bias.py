"""Long episodes count as often as short ones: reported means are the environment's."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.acting import engines
from agents.evaluation.evaluate import evaluate
from agents.evaluation.spec import EvalSpec
from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from configs import ModelConfig
from envs.worlds.spec import EnvSpec

SHORT, LONG = 5, 500
EPISODES, FIRST = 60, 3000
OTHERS = [name for name in engines.NAMES if name not in ("numba", "eager")]


class Uneven(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of 5 to 500 steps, short ones more often, and a reward of 1 for each step.

    With a folder, a file there tells of each episode who played it, and the first one waits until
    there are two players.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self.observation_space = gym.spaces.Box(-9, 9, (2,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.left = length(seed)
        if self.folder:
            Path(self.folder, f"{seed} {os.getpid()}").touch()
            end = time.monotonic() + 300
            while len(players(self.folder)) < 2:
                assert time.monotonic() < end, "nobody else plays"
                time.sleep(1e-2)
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.asarray(action, np.float64), 1.0, self.left == 0, False, {}


def players(folder: str | Path) -> Counter[str]:
    """Count the episodes of each process."""
    return Counter(path.name.split()[1] for path in Path(folder).iterdir())


def length(seed: int) -> int:
    """Spread evenly over seeds (golden section), so that no luck is in the sample."""
    return round(SHORT * (LONG / SHORT) ** (seed * 0.6180339887498949 % 1))


TRUTH = float(np.mean([length(seed) for seed in range(100_000)]))


@pytest.fixture(scope="module", autouse=True)
def env_id():
    gym.register("Uneven-v0", Uneven)
    yield "Uneven-v0"
    gym.registry.pop("Uneven-v0")


@cache
def model() -> DecisionModel:
    spaces = Spaces([0.0] * 2, [1.0] * 2, [-1.0] * 2, [1.0] * 2, 100.0, 0.0, 500.0)
    return DecisionModel(ModelConfig(dim=16, num_layers=1), spaces)


def returns(engine: str, num_envs: int, folder: str = "", **more: Any) -> np.ndarray:
    if engine not in engines.available(model()):
        pytest.skip(f"no {engine} here")
    spec = EvalSpec(
        (300.0,), episodes=EPISODES, seed=FIRST, num_envs=num_envs, engine=engine, **more
    )
    (result,) = evaluate(model(), EnvSpec("Uneven-v0", {"folder": folder}), spec)
    assert result.engine == engine
    np.testing.assert_array_equal(result.returns, result.lengths)
    return result.returns


def assert_unbiased(found: np.ndarray) -> None:
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - TRUTH) < error


@pytest.mark.parametrize("engine", ["numba", "eager"])
@pytest.mark.parametrize("num_envs", [1, 7, 16, EPISODES])
def test_the_reported_mean_is_that_of_the_environment(engine, num_envs):
    assert_unbiased(returns(engine, num_envs))


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("num_envs", [1, 7, 16, EPISODES])
def test_and_so_it_is_with_engines_that_take_long_to_make(engine, num_envs):
    assert_unbiased(returns(engine, num_envs))


def test_and_over_processes(tmp_path):
    # The environment is registered in this process alone.
    assert_unbiased(returns("eager", 8, str(tmp_path), num_procs=2))
    shares = players(tmp_path)
    assert len(shares) == 2
    assert sum(shares.values()) == EPISODES


def test_the_first_to_finish_would_be_far_off():
    """What the test above can tell apart: stopping when enough episodes have ended."""
    lengths = [length(FIRST + i) for i in range(10 * EPISODES)]
    queues = [lengths[k :: EPISODES // 2] for k in range(EPISODES // 2)]
    ends = [(end, n) for q in queues for n, end in zip(q, itertools.accumulate(q), strict=True)]
    first = np.array([n for _, n in sorted(ends)[:EPISODES]], np.float64)
    with pytest.raises(AssertionError):
        assert_unbiased(first)
    assert first.mean() < TRUTH / 2
