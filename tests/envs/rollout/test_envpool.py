"""envpool's episodes: complete, each played once, and of the same environment as gymnasium's."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.errors import UserError
from envs.rollout import rollout
from envs.rollout.envpool import check_supported, largest_difference, pool_rollout
from envs.worlds.make import make_env
from envs.worlds.spec import EnvSpec

WALKERS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")
SIZES = {"Hopper-v5": 3, "Walker2d-v5": 6, "HalfCheetah-v5": 6}


@pytest.fixture(scope="module")
def envpool() -> Any:
    return pytest.importorskip("envpool")


class Logging:
    """Act as what it saw says, and as the number of its own step does; write down all it is given.

    The number is the state of a row: `keep` and `resets` must be exact for it to be right.
    """

    def __init__(self, size: int = 3) -> None:
        self.size, self.seen = size, dict[int, list[tuple[Any, ...]]]()
        self.rows, self.steps = list[int](), np.zeros(0, np.int64)

    def __call__(self, obs: Any, reward: Any, resets: Any, episode: Any) -> Any:
        if not self.rows:
            self.steps = np.zeros(len(obs), np.int64)
        self.rows.append(len(obs))
        assert len(obs) == len(reward) == len(resets) == len(episode) == len(self.steps)
        self.steps = np.where(resets, 0, self.steps + 1)
        actions = 0.7 * np.sin(np.arange(self.size) + self.steps[:, None] + obs[:, : self.size])
        for k, i in enumerate(episode):
            row = (self.steps[k], resets[k], reward[k], obs[k], actions[k])
            self.seen.setdefault(int(i), []).append(row)
        return actions

    def keep(self, rows: Any) -> None:
        self.steps = self.steps[rows]


def still(size: int) -> Any:
    return lambda obs, reward, resets, episode: np.zeros((len(obs), size))


@pytest.mark.parametrize("num_envs", [1, 5, 99])
def test_an_actor_is_given_every_step_of_every_episode_once(envpool, num_envs):
    actor, calls = Logging(), list[tuple[int, int]]()
    found = pool_rollout(
        "Hopper-v5", actor, range(23), num_envs=num_envs, progress=lambda *done: calls.append(done)
    )
    assert sorted(actor.seen) == list(range(23))
    for i, steps in actor.seen.items():
        number, starts, rewards, obs, _ = (np.array(x) for x in zip(*steps, strict=True))
        # Had an episode been left and come back to, or its row another's state, this would differ.
        np.testing.assert_array_equal(number, np.arange(found.lengths[i]))
        np.testing.assert_array_equal(starts, number == 0)
        assert rewards[0] == 0
        assert (rewards[1:] > 0).all()
        assert np.abs(obs[0] - [1.25, *np.zeros(10)]).max() <= 0.005
        assert np.abs(obs[1:] - obs[0]).max(axis=1).min() > 1e-4
    assert sum(actor.rows) == found.lengths.sum()  # no step is wasted
    assert actor.rows == sorted(actor.rows, reverse=True)
    assert actor.rows[0] == min(num_envs, 23)
    assert calls == [(i + 1, 23) for i in range(23)]
    assert found.terminated.all()


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5"])
def test_episodes_are_those_that_gymnasium_plays_from_their_starts(envpool, env_id):
    actor = Logging(SIZES[env_id])
    found = pool_rollout(env_id, actor, range(25), num_envs=8)
    env = make_env(env_id)
    walker: Any = env.unwrapped
    for i, steps in actor.seen.items():
        env.reset(seed=0)
        start, rewards, ended, cut = steps[0][3], [0.0], False, False
        walker.set_state(np.r_[0, start[: walker.model.nq - 1]], start[walker.model.nq - 1 :])
        for *_, action in steps:
            assert not ended
            assert not cut
            _, reward, ended, cut, _ = env.step(action)
            rewards.append(float(reward))
        assert ended  # in the very step in which it did in envpool
        np.testing.assert_allclose([step[2] for step in steps], rewards[:-1], atol=1e-5)
        assert found.returns[i] == pytest.approx(sum(rewards), abs=1e-4)
    env.close()


def test_an_episode_is_the_same_whatever_is_beside_it(envpool):
    seeds = [3, 4, 5, 3, *range(10, 20)]
    many = pool_rollout("Hopper-v5", Logging(), seeds, num_envs=6, num_threads=2)
    for i, seed in enumerate(seeds):
        alone = pool_rollout("Hopper-v5", Logging(), [seed], num_threads=1)
        assert (alone.returns[0], alone.lengths[0]) == (many.returns[i], many.lengths[i])
    assert many.returns[0] == many.returns[3] != many.returns[1]


def test_a_time_limit_cuts_and_does_not_terminate(envpool):
    found = pool_rollout(
        EnvSpec("Hopper-v5", {"max_episode_steps": 9}), Logging(), range(7), num_envs=3
    )
    assert found.lengths.tolist() == [9] * 7
    assert not found.terminated.any()
    whole = pool_rollout("HalfCheetah-v5", still(6), [0], num_envs=1)
    assert whole.lengths.tolist() == [1000]  # envpool's own limit is not asked


@pytest.mark.parametrize("env_id", WALKERS)
@pytest.mark.parametrize("kwargs", [{}, {"frame_skip": 2, "ctrl_cost_weight": 1}], ids=str)
def test_from_the_same_state_steps_are_gymnasiums(envpool, env_id, kwargs):
    """Rewards come as float32, and contacts let rounding errors grow; nothing else differs."""
    assert largest_difference(EnvSpec(env_id, kwargs), seeds=range(10), steps=50) < 1e-5


@pytest.mark.parametrize(
    "kwargs",
    [
        {"healthy_reward": 3},
        {"terminate_when_unhealthy": False},
        {"forward_reward_weight": 2.0, "max_episode_steps": 30},
        {"exclude_current_positions_from_observation": False},
    ],
    ids=str,
)
def test_arguments_mean_the_same(envpool, kwargs):
    assert largest_difference(EnvSpec("Hopper-v5", kwargs), steps=100) < 1e-5


@pytest.mark.parametrize("change", [{"healthy_reward": 1.01}, {"frame_skip": 5}], ids=str)
def test_a_trial_tells_other_environments_apart(envpool, monkeypatch, change):
    monkeypatch.setattr(
        "envs.rollout.envpool.make_env", lambda env: make_env(replace(env, kwargs=change))
    )
    assert largest_difference("Walker2d-v5") > 1e-3
    with pytest.raises(
        UserError, match=r"Walker2d-v5 is not gymnasium's.*--eval.stepper gymnasium"
    ):
        check_supported("Walker2d-v5")


@pytest.mark.parametrize("env_id", WALKERS)
def test_starts_are_drawn_alike(envpool, env_id):
    count = 300
    pool = envpool.make_gymnasium(env_id, num_envs=count, seed=[*range(count)], num_threads=1)
    theirs, env = pool.reset()[0], make_env(env_id)
    ours = np.array([env.reset(seed=seed)[0] for seed in range(count)])
    env.close()
    spread = ours.std(axis=0)
    np.testing.assert_allclose(theirs.std(axis=0), spread, rtol=0.2)
    assert (np.abs(theirs.mean(axis=0) - ours.mean(axis=0)) < 5 * spread / np.sqrt(count / 2)).all()
    largest = [np.abs(x - ours.mean(axis=0)).max() / spread.max() for x in (theirs, ours)]
    assert largest[0] == pytest.approx(largest[1], rel=0.25)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5"])
def test_returns_have_gymnasiums_mean(envpool, env_id):
    def played(run: Any, seeds: range) -> Any:
        return run(env_id, Logging(SIZES[env_id]), seeds, num_envs=20)

    theirs, ours = played(pool_rollout, range(200)), played(rollout, range(200))
    for name in ("returns", "lengths"):
        a, b = getattr(theirs, name), getattr(ours, name)
        error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 200)
        assert abs(a.mean() - b.mean()) < 3 * error
    assert theirs.terminated.all()
    assert ours.terminated.all()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("ToyWalk-v0", "envpool has no ToyWalk-v0"),
        ("Ant-v5", "Ant-v5 cannot be compared"),
        ("Pendulum-v1", "Pendulum-v1 cannot be compared"),
        (EnvSpec("Hopper-v5", {"healthy_z_range": (0.7, 9)}), "with healthy_z_range="),
        (EnvSpec("Hopper-v5", {"max_episode_steps": -1}), "with max_episode_steps="),
        (EnvSpec("HalfCheetah-v5", {"healthy_reward": 1}), "with healthy_reward="),
        (EnvSpec("PointMaze_UMaze-v3", obs_keys=("observation",)), "put together from parts"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*precision lowered")  # envpool's spaces of other environments
def test_what_envpool_cannot_stand_in_for_is_refused(envpool, env, words):
    with pytest.raises(UserError, match=f"{words}.*: use --eval.stepper gymnasium") as refused:
        check_supported(env)
    assert "\n" not in str(refused.value)


def test_without_envpool_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[envpool\]"'):
        check_supported("Hopper-v5")


def test_actions_that_are_wrong_are_refused(envpool):
    with pytest.raises(UserError, match=r"shape \(4, 2\), not \(4, 3\)"):
        pool_rollout("Hopper-v5", still(2), range(9), num_envs=4)

    def diverges(obs, reward, resets, episode):
        return np.where(episode == 2, np.nan, 0.0)[:, None] * np.ones(3)

    with pytest.raises(UserError, match=r"episode 2 \(seed 12\), step 0: .*not finite"):
        pool_rollout("Hopper-v5", diverges, range(10, 14), num_envs=2)


@pytest.mark.parametrize(("seeds", "num_envs"), [([], 4), ([1], 0)])
def test_an_empty_queue_is_refused(seeds, num_envs):
    with pytest.raises(UserError, match="need 1 or more"):
        pool_rollout("Hopper-v5", still(3), seeds, num_envs=num_envs)
