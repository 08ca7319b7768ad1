from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.errors import UserError
from envs.rollout import Rollout, rollout
from envs.worlds.spec import EnvSpec
from tests.support.toys import ACTION, OBS, Memory, Walk, register, register_goals


@pytest.fixture(autouse=True)
def every_environment_is_closed():
    Walk.live = 0
    yield
    assert Walk.live == 0


def alone(seed: int, index: int) -> tuple[float, int, bool]:
    """One episode of the queue, run by itself, by hand."""
    env, actor = Walk(), Memory()
    obs, _ = env.reset(seed=seed)
    total, reward, length, ended, cut = 0.0, 0.0, 0, False, False
    while not (ended or cut):
        action = actor(obs[None], np.array([reward]), np.array([length == 0]), np.array([index]))[0]
        obs, reward, ended, cut, _ = env.step(action)
        total, length = total + reward, length + 1
    env.close()
    return total, length, ended


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 50))
@settings(max_examples=30)
def test_every_episode_equals_itself_run_alone_for_any_number_of_environments(
    count: int, num_envs: int, first: int
) -> None:
    seeds = [first + 3 * i for i in range(count)]
    result = rollout(Walk, Memory(), seeds, num_envs=num_envs)
    for i, seed in enumerate(seeds):
        total, length, ended = alone(seed, i)
        assert result.returns[i] == pytest.approx(total, rel=1e-12)
        assert (result.lengths[i], result.terminated[i]) == (length, ended)


def test_long_episodes_count_as_often_as_short_ones() -> None:
    # The first twenty to finish of forty would be the short ones.
    seeds = range(400)
    parallel = rollout(Walk, Memory(), seeds, num_envs=40)
    assert parallel.lengths.mean() == rollout(Walk, Memory(), seeds, num_envs=1).lengths.mean()
    assert len(parallel.returns) == 400


def test_rows_shrink_when_the_queue_is_dry() -> None:
    actor = Memory()
    result = rollout(Walk, actor, range(20), num_envs=6)
    assert actor.rows == sorted(actor.rows, reverse=True)
    assert actor.rows[0] == 6
    assert sum(actor.rows) == result.lengths.sum()  # no step is wasted


def test_an_actor_without_memory_needs_no_keep() -> None:
    def still(obs, reward, resets, episode):
        return np.zeros((len(obs), ACTION))

    assert (rollout(Walk, still, range(9), num_envs=4).lengths > 0).all()


def test_equal_seeds_give_equal_episodes() -> None:
    def still(obs, reward, resets, episode):
        return np.zeros((len(obs), ACTION))

    result = rollout(Walk, still, [7, 8, 7], num_envs=2)
    assert result.returns[0] == result.returns[2] != result.returns[1]


def test_a_recorded_rollout_holds_every_step() -> None:
    actor = Memory()
    result = rollout(Walk, actor, [3, 4, 5, 6, 7], num_envs=2, record=True)
    assert result.episodes is not None
    for i, episode in enumerate(result.episodes):
        length = result.lengths[i]
        assert episode.obs.shape == (length + 1, OBS)
        assert episode.action.shape == (length, ACTION)
        assert episode.seed == 3 + i
        assert episode.terminated == result.terminated[i]
        assert episode.reward.sum() == pytest.approx(result.returns[i])
        env = Walk()
        obs, _ = env.reset(seed=3 + i)
        for t in range(length):
            np.testing.assert_array_equal(episode.obs[t], obs)
            obs, reward, *_ = env.step(episode.action[t])
            assert reward == episode.reward[t]
        np.testing.assert_array_equal(episode.obs[length], obs)
        env.close()


def test_a_recorded_rollout_becomes_trajectories() -> None:
    result = rollout(register(), Memory(), range(4), record=True)
    trajectories = result.trajectories
    assert trajectories is not None
    assert trajectories.env_id == "ToyWalk-v0"
    assert trajectories.action_low.tolist() == [-1, -1]
    np.testing.assert_allclose(trajectories.returns, result.returns, rtol=1e-5)
    assert rollout(Walk, Memory(), [1]).trajectories is None


def test_progress_counts_episodes_up_to_all() -> None:
    calls: list[tuple[int, int]] = []
    rollout(Walk, Memory(), range(7), num_envs=3, progress=lambda d, n: calls.append((d, n)))
    assert calls == [(i + 1, 7) for i in range(7)]


def test_an_action_that_is_not_finite_names_its_episode() -> None:
    def diverges(obs, reward, resets, episode):
        action = np.zeros((len(obs), ACTION))
        action[episode == 2] = np.nan
        return action

    with pytest.raises(UserError, match=r"episode 2 \(seed 12\), step 0: .*not finite"):
        rollout(Walk, diverges, [10, 11, 12, 13], num_envs=2)


def test_actions_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(UserError, match="shape"):
        rollout(Walk, lambda obs, *_: np.zeros((len(obs), ACTION + 1)), [1])


def test_environments_are_closed_when_the_actor_fails() -> None:
    def fails(*_):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        rollout(Walk, fails, range(8))


@pytest.mark.parametrize(("seeds", "num_envs"), [([], 4), ([1], 0)])
def test_an_empty_queue_is_refused(seeds: list[int], num_envs: int) -> None:
    with pytest.raises(UserError, match="need 1 or more"):
        rollout(Walk, Memory(), seeds, num_envs=num_envs)


def test_a_time_limit_is_not_a_termination() -> None:
    result: Rollout = rollout(partial(Walk, hazard=0.0), Memory(), range(3), num_envs=2)
    assert result.lengths.tolist() == [40, 40, 40]
    assert not result.terminated.any()


def test_mujoco_episodes_are_the_same_for_any_number_of_environments() -> None:
    def sway(obs, reward, resets, episode):
        return np.sin(obs[:, :3] * 5)  # no sum over the batch, so no rounding that depends on K

    one, many = (rollout("Hopper-v5", sway, range(6), num_envs=k) for k in (1, 4))
    np.testing.assert_array_equal(one.returns, many.returns)
    np.testing.assert_array_equal(one.lengths, many.lengths)


def test_success_counts_at_any_step_of_an_episode() -> None:
    line = 2.0
    register_goals()
    seeds = range(12)
    result = rollout(
        EnvSpec("ToyGoals-v0", {"line": line}), Memory(), seeds, num_envs=5, record=True
    )
    assert result.success is not None
    assert result.episodes is not None
    expected = [(episode.obs[1:, 0] > line).any() for episode in result.episodes]
    assert result.success.tolist() == expected
    assert 0 < result.success.sum() < 12
    assert rollout(Walk, Memory(), [1]).success is None


def test_a_success_in_the_middle_is_kept_and_not_handed_to_the_next_episode() -> None:
    class Midway(Walk):
        def step(self, action):
            *step, _ = super().step(action)
            # In episodes of even seeds alone, at their third step.
            return *step, {"is_success": float(self.even and self.steps == 3)}

        def reset(self, *, seed=None, options=None):
            self.even = seed % 2 == 0
            return super().reset(seed=seed)

    result = rollout(partial(Midway, hazard=0.0), Memory(), range(7), num_envs=2)
    assert result.success is not None
    assert result.success.tolist() == [True, False, True, False, True, False, True]
    assert Midway.live == 0


def test_arguments_and_keys_make_the_environment_and_stay_with_the_data() -> None:
    register_goals()
    spec = EnvSpec("ToyGoals-v0", {"hazard": 0.0, "horizon": 7}, ("goal/y", "speed"))
    result = rollout(spec, Memory(), range(3), record=True)
    assert result.lengths.tolist() == [7, 7, 7]
    data = result.trajectories
    assert data is not None
    assert (data.obs_dim, data.env) == (3, spec)


class Halving(Walk):
    """A walk that writes into the action that it is given."""

    def step(self, action):
        action *= 0.5
        return super().step(action)


def test_what_an_environment_writes_into_its_action_stays_there() -> None:
    kept = np.full((2, ACTION), 0.8)
    result = rollout(Halving, lambda obs, *_: kept[: len(obs)], range(4), num_envs=2, record=True)
    assert (kept == 0.8).all()
    assert result.episodes is not None
    assert all((episode.action == 0.8).all() for episode in result.episodes)
    halved = rollout(Walk, lambda obs, *_: kept[: len(obs)] / 2, range(4), num_envs=2)
    np.testing.assert_array_equal(result.returns, halved.returns)


class OneBuffer(Walk):
    """A walk that returns one array again and again, and writes into it."""

    def reset(self, **given):
        obs, info = super().reset(**given)
        self.buffer = getattr(self, "buffer", np.zeros(OBS))
        self.buffer[:] = obs
        return self.buffer, info

    def step(self, action):
        obs, *rest = super().step(action)
        self.buffer[:] = obs
        return self.buffer, *rest


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_environment_may_reuse_the_array_of_its_observations(num_envs: int) -> None:
    played = [
        rollout(kind, Memory(), range(6), num_envs=num_envs, record=True)
        for kind in (Walk, OneBuffer)
    ]
    np.testing.assert_array_equal(played[0].returns, played[1].returns)
    assert played[0].episodes is not None
    assert played[1].episodes is not None
    for one, other in zip(played[0].episodes, played[1].episodes, strict=True):
        np.testing.assert_array_equal(one.obs, other.obs)
