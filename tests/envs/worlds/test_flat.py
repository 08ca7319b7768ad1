from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs.errors import UserError
from envs.rollout import rollout
from envs.worlds.flat import flatten, parts
from envs.worlds.make import env_sizes, make_env, make_raw
from envs.worlds.spec import EnvSpec
from tests.support.toys import Goals, Memory, Walk, register, register_goals

ALL = ("goal/x", "goal/y", "mode", "pair/0", "pair/1", "speed")


@pytest.fixture(autouse=True)
def every_environment_is_closed():
    Walk.live = Goals.live = 0
    yield
    assert Walk.live == Goals.live == 0


def first(keys: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Return the first observation of Goals, flat, and of Walk."""
    seen = []
    for env in (make_env(EnvSpec(register_goals(), obs_keys=keys)), make_env(register())):
        seen.append(env.reset(seed=3)[0])
        env.close()
    return seen[0], seen[1]


def test_parts_come_out_sorted_by_name_on_each_level() -> None:
    space = Goals().observation_space
    Goals.live = 0
    assert tuple(part.name for part in parts(space, where="it")) == ALL


def test_a_dict_observation_becomes_one_vector() -> None:
    flat, (x, y, z) = first()
    expected = [x, y, 1, 0, 0, 0, 1, z, np.float32(x + 10), np.float32(y + 10)]
    np.testing.assert_array_equal(flat, expected)
    assert flat.dtype == np.float64
    assert env_sizes("ToyGoals-v0") == (10, 2)


def test_steps_are_flat_too_and_hold_the_same_numbers() -> None:
    env, plain = make_env(register_goals()), make_raw("ToyGoals-v0")
    env.reset(seed=1)
    plain.reset(seed=1)
    flat, reward, *_ = env.step(np.ones(2))
    obs, same, *_ = plain.step(np.ones(2))
    assert (flat[0], flat[1], reward) == (obs["goal"]["x"][0], obs["goal"]["y"][0], same)
    assert flat[2:5].tolist() == [0, 1, 0]  # mode 6, of 5, 6, 7
    assert env.observation_space.contains(flat)
    env.close()
    plain.close()


def test_bounds_follow_the_parts() -> None:
    env = make_env(register_goals())
    space = env.observation_space
    assert isinstance(space, spaces.Box)
    assert space.high.tolist() == [np.inf, np.inf, 1, 1, 1, 1, 1, np.inf, 99, 99]
    assert space.low.tolist() == [-np.inf, -np.inf, 0, 0, 0, 0, 0, -np.inf, -99, -99]
    env.close()


@pytest.mark.parametrize(
    ("keys", "places"),
    [
        (("speed", "goal/y"), [8, 9, 1]),
        (("goal",), [0, 1]),
        (("pair/1", "goal", "mode"), [7, 0, 1, 2, 3, 4]),
        (ALL, list(range(10))),
    ],
)
def test_keys_choose_parts_and_their_order(keys: tuple[str, ...], places: list[int]) -> None:
    np.testing.assert_array_equal(first(keys)[0], first()[0][places])
    assert env_sizes(EnvSpec("ToyGoals-v0", obs_keys=keys)) == (len(places), 2)


@pytest.mark.parametrize(
    ("env_id", "keys", "message"),
    [
        ("ToyGoals-v0", ("goals",), "no observation 'goals'; it has goal/x, goal/y, mode, pair/0"),
        ("ToyGoals-v0", ("goal", "goal/x"), "twice"),
        ("ToyWalk-v0", ("goal",), "ToyWalk-v0 has no observation 'goal'; it has one flat array"),
    ],
)
def test_bad_keys_are_one_clear_line(env_id: str, keys: tuple[str, ...], message: str) -> None:
    register()
    register_goals()
    with pytest.raises(UserError, match=message) as caught:
        make_env(EnvSpec(env_id, obs_keys=keys))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "odd", [spaces.Text(5), spaces.Box(0, 255, (8, 8), np.uint8), spaces.MultiDiscrete([2, 3])]
)
def test_parts_that_are_not_numbers_are_refused_unless_left_out(odd: gym.Space[Any]) -> None:
    def make() -> Goals:
        env = Goals()
        env.observation_space = spaces.Dict({**env.observation_space.spaces, "odd": odd})
        return env

    with pytest.raises(UserError, match="Goals has odd of the kind"):
        make_env(make)
    env = flatten(make(), ("goal",))
    assert env.observation_space.shape == (2,)
    env.close()


def test_arguments_reach_the_environment() -> None:
    env = make_env(EnvSpec(register(), {"horizon": 3, "hazard": 0.0}))
    assert env.unwrapped.horizon == 3  # type: ignore[attr-defined]
    env.close()
    limited = make_env(EnvSpec("ToyWalk-v0", {"max_episode_steps": 2, "hazard": 0.0}))
    limited.reset(seed=0)
    assert [limited.step(np.zeros(2))[3] for _ in range(2)] == [False, True]
    limited.close()


def test_arguments_that_do_not_fit_are_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"ToyWalk-v0 cannot be made with \{'speed': 3\}") as caught:
        make_env(EnvSpec(register(), {"speed": 3}))
    assert "\n" not in str(caught.value)


def test_every_user_of_make_env_sees_vectors() -> None:
    register_goals()
    result = rollout("ToyGoals-v0", Memory(), range(3), record=True)
    assert result.episodes is not None
    assert result.episodes[0].obs.shape[1] == 10
