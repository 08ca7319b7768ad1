"""Jumps within episodes are found, and what environments do by themselves is not taken for one."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.data.jumps import find_jumps
from tests.support import recordings


def walk(episodes: int = 12, length: int = 90, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    """Return a walk (N, 6) that starts each of its episodes elsewhere, and the starts (E + 1,)."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.1, (episodes, length, 6))
    steps[:, 0, :2] += 20 * (np.arange(episodes)[:, None] % 3)
    obs = np.cumsum(steps, axis=1).reshape(-1, 6).astype(np.float32)
    return obs, np.arange(episodes + 1) * length


def moved(starts: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    return np.concatenate((starts[:1], starts[1:-1] + by, starts[-1:]))


@pytest.mark.parametrize(
    ("by", "words"),
    [(1, ("late", "after step 8", "earlier")), (-1, ("early", "after step 0 of", "later"))],
)
def test_ends_that_are_marked_in_the_next_row_are_found(by: int, words: tuple[str, ...]) -> None:
    obs, starts = walk()
    assert find_jumps(obs, starts) == []
    (note,) = find_jumps(obs, moved(starts, by))
    for word in ("11 of 12 episodes seem to end one row too", *words):
        assert word in note


def test_the_largest_jump_is_named() -> None:
    obs, starts = walk()
    obs[starts[4] :, 1] += 100.0
    size = abs(float(obs[starts[4], 1]) - float(obs[starts[4] - 1, 1]))
    (note,) = find_jumps(obs, moved(starts, 1))
    assert f"(most by {size:.3g} in number 1 after step 88 of episode 3)" in note
    obs, starts = walk()
    obs[starts[4] + 50 :, :2] += 100.0
    (note,) = find_jumps(obs, starts)
    assert "jump at 1 steps within episodes" in note
    assert "after step 49 of episode 4" in note


def test_ends_that_are_not_marked_are_found() -> None:
    obs, starts = walk()
    (note,) = find_jumps(obs, starts[[0, 5, 12]])
    assert "observations jump at 10 steps within episodes" in note


def test_the_scale_and_the_offset_of_numbers_do_not_matter() -> None:
    obs, starts = walk()
    expected = find_jumps(obs * np.float32(1024), moved(starts, 1))
    for scale in (2.0**-60, 2.0**60):
        (note,) = find_jumps(obs * np.float32(scale), moved(starts, 1))
        assert note[:60] == expected[0][:60]


def test_numbers_that_change_rarely_or_alone_are_no_jumps() -> None:
    obs, starts = walk()
    rng = np.random.default_rng(1)
    obs[:, 4:] = np.repeat(rng.normal(0, 50, (len(obs) // 30, 2)), 30, axis=0)  # goals
    assert find_jumps(obs, starts) == []
    obs, starts = walk()
    obs[:, 3] = (np.arange(len(obs)) * 0.05 + np.pi) % (2 * np.pi) - np.pi  # an angle
    assert find_jumps(obs, starts) == []


def test_random_and_few_numbers_are_no_jumps() -> None:
    rng = np.random.default_rng(0)
    for scale in (rng.normal, rng.standard_cauchy):
        obs = scale(size=(3000, 8)).astype(np.float32)
        assert find_jumps(obs, np.arange(0, 3001, 100)) == []
    obs, starts = walk(episodes=3, length=5)
    assert find_jumps(obs, moved(starts, 1)) == []
    assert find_jumps(np.zeros((100, 2), np.float32), np.array([0, 50, 100])) == []
    assert find_jumps(np.zeros((1, 2), np.float32), np.array([0, 1])) == []


@pytest.mark.parametrize(
    "env_id",
    [
        *("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Pusher-v5"),
        *("Reacher-v5", "Swimmer-v5", "MountainCarContinuous-v0", "Pendulum-v1"),
    ],
)
def test_what_gymnasiums_environments_do_is_no_jump(env_id: str) -> None:
    env = gym.make(env_id)
    episodes = recordings.play(env, count=10, steps=200)
    env.close()
    obs = np.concatenate([each.obs[:-1] for each in episodes]).astype(np.float32)
    starts = np.concatenate(([0], np.cumsum([len(each.reward) for each in episodes])))
    assert find_jumps(obs, starts) == []
