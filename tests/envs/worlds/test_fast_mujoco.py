"""Fast steps are gymnasium's, bit for bit, or are not used."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.worlds import fast_mujoco as module
from envs.worlds.fast_mujoco import FastWalker, fast_path
from envs.worlds.make import make_env
from envs.worlds.spec import EnvSpec

CASES: list[tuple[str, dict[str, Any]]] = [
    ("HalfCheetah-v5", {}),
    ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False, "frame_skip": 2}),
    ("Hopper-v5", {}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "max_episode_steps": 40}),
    ("Hopper-v5", {"healthy_state_range": (-3.0, 9.0), "ctrl_cost_weight": 1}),
    ("Walker2d-v5", {}),
    ("Walker2d-v5", {"healthy_z_range": (1.0, 1.3), "forward_reward_weight": 2.0}),
]


@pytest.fixture(autouse=True)
def no_trial_yet(monkeypatch):
    monkeypatch.setattr(module, "_same", {})


@pytest.mark.parametrize(("env_id", "kwargs"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_of_an_episode_is_gymnasiums(env_id, kwargs, dtype):
    slow, fast = (make_env(EnvSpec(env_id, kwargs)) for _ in range(2))
    fast = fast_path(fast)
    assert isinstance(fast, FastWalker)
    rng, space = np.random.default_rng(1), slow.action_space
    assert isinstance(space, gym.spaces.Box)
    for seed in (3, 4):
        (first, _), (second, _) = slow.reset(seed=seed), fast.reset(seed=seed)
        assert first.tobytes() == second.tobytes()
        for _ in range(150):
            action = (1.2 * rng.uniform(space.low, space.high)).astype(dtype)  # beyond, too
            (first, *outcome, _), (second, *other, info) = slow.step(action), fast.step(action)
            assert first.tobytes() == second.tobytes()
            assert [float(x) for x in outcome] == [float(x) for x in other]
            assert info == {}
    slow.close()
    fast.close()


def test_a_state_out_of_range_ends_the_episode_in_both():
    slow, fast = make_env("Hopper-v5"), fast_path(make_env("Hopper-v5"))
    for env in (slow, fast):
        env.reset(seed=0)
        walker: Any = slow.unwrapped if env is slow else fast.env.unwrapped
        walker.set_state(walker.init_qpos, np.full(6, 99.0))
    action = np.zeros(3, np.float32)
    first, second = slow.step(action), fast.step(action)
    assert first[2] == second[2] == True  # noqa: E712
    assert first[0].tobytes() == second[0].tobytes()


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Ant-v5", {}),
        ("Hopper-v4", {}),
        ("Pendulum-v1", {}),
        ("Hopper-v5", {"render_mode": "rgb_array"}),
    ],
)
def test_what_is_not_known_is_left_alone(env_id, kwargs):
    env = make_env(EnvSpec(env_id, kwargs))
    assert fast_path(env) is env
    env.close()


def test_another_gymnasium_is_noticed(monkeypatch):
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

    env = make_env("Hopper-v5")
    cost = HopperEnv.control_cost
    monkeypatch.setattr(HopperEnv, "control_cost", lambda self, action: 2 * cost(self, action))
    assert fast_path(env) is env
    monkeypatch.setattr(module, "_same", {})
    monkeypatch.setattr(HopperEnv, "control_cost", cost)
    assert isinstance(fast_path(env), FastWalker)
    env.close()


def test_other_wrappers_are_left_in_place():
    env = gym.wrappers.ClipAction(make_env("Hopper-v5"))
    assert fast_path(env) is env
    env.close()


def test_an_episode_that_is_begun_anew_has_its_whole_time():
    env = fast_path(make_env(EnvSpec("HalfCheetah-v5", {"max_episode_steps": 8})))
    assert isinstance(env, FastWalker)
    action = np.zeros(6, np.float32)
    for steps in (5, 8):
        env.reset(seed=0)
        ends = [env.step(action)[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * 7 + [(False, True)]
    env.close()
