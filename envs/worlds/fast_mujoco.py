"""A fast path for gymnasium's MuJoCo walkers: bit for bit the same steps, with half the Python.

gymnasium spends a quarter of a step of HalfCheetah-v5 outside of MuJoCo, and a third of Hopper-v5.
The fast path is used for known classes and wrappers, after a trial that compares every number with
gymnasium's, so that another version of gymnasium cannot go unnoticed.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from numpy.typing import NDArray

Step = tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]

_MODULES = {
    "HopperEnv": "hopper_v5",
    "Walker2dEnv": "walker2d_v5",
    "HalfCheetahEnv": "half_cheetah_v5",
}
_TRIAL = 60  # steps with random actions: enough to fall
_NO_INFO: dict[str, Any] = {}
_same: dict[str, bool] = {}  # the trial's result for each kind of environment


def fast_path(env: gym.Env[Any, Any]) -> FastWalker | gym.Env[Any, Any]:
    """Return the environment with fast steps, or the environment itself if it has no fast path.

    A trial is run once for each kind of environment: reset it with a seed before its first use.
    """
    try:
        fast = FastWalker(env)
    except _NoFastPath:
        return env
    kind = repr(env.spec)
    if kind not in _same:
        _same[kind] = _trial(fast)
    return fast if _same[kind] else env


class _NoFastPath(Exception):
    """The environment has no fast path."""


class FastWalker:
    """A walker with fast steps, whose info is empty."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        chain: Any = env
        walker: Any = env.unwrapped
        kind = type(walker).__name__
        known = kind in _MODULES and type(walker).__module__.endswith(f"mujoco.{_MODULES[kind]}")
        if not known or walker.render_mode is not None or env.spec is None:
            raise _NoFastPath
        if type(chain) is not TimeLimit or type(chain.env) is not OrderEnforcing:
            raise _NoFastPath
        if chain.env.env is not walker:
            raise _NoFastPath
        self._mj_step: Any = importlib.import_module("mujoco").mj_step
        self.env, self.action_space, self.spec = env, env.action_space, env.spec
        try:
            self._look_up(env, walker, kind)
        except AttributeError:
            raise _NoFastPath from None

    def _look_up(self, env: Any, walker: Any, kind: str) -> None:
        self._limit: int = env._max_episode_steps
        self._model, self._data, self._skip = walker.model, walker.data, walker.frame_skip
        data = self._data
        self._ctrl, self._qpos, self._qvel = data.ctrl, data.qpos, data.qvel
        self._seen = self._qpos[int(walker._exclude_current_positions_from_observation) :]
        self._split = len(self._seen)
        self._size = self._split + len(self._qvel)
        self._dt: float = walker.dt
        self._forward, self._cost = walker._forward_reward_weight, walker._ctrl_cost_weight
        self._falls = kind != "HalfCheetahEnv"
        self._elapsed = 0
        if self._falls:
            self._alive, self._stops = walker._healthy_reward, walker._terminate_when_unhealthy
            self._heights, self._angles = walker._healthy_z_range, walker._healthy_angle_range
            self._states = walker._healthy_state_range if kind == "HopperEnv" else None
            self._rest = self._qpos[2:]

    def reset(self, *, seed: int | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        self._elapsed = 0
        return self.env.reset(seed=seed)

    def step(self, action: NDArray[np.floating]) -> Step:
        """See `gymnasium.Env.step`; the info is empty."""
        qpos, qvel = self._qpos, self._qvel
        before = qpos.item(0)  # Python floats are doubles too, and four times as fast
        self._ctrl[:] = action
        self._mj_step(self._model, self._data, self._skip)
        reward = self._forward * ((qpos.item(0) - before) / self._dt)
        obs = np.empty(self._size)
        obs[: self._split] = self._seen
        terminated = False
        if self._falls:
            np.minimum(np.maximum(qvel, -10.0), 10.0, out=obs[self._split :])
            healthy = self._healthy()
            reward += healthy * self._alive
            terminated = not healthy and self._stops
        else:
            obs[self._split :] = qvel
        reward -= float(self._cost * np.add.reduce(np.square(action)))
        self._elapsed += 1
        return obs, reward, terminated, self._elapsed >= self._limit, _NO_INFO

    def close(self) -> None:
        """See `gymnasium.Env.close`."""
        self.env.close()

    def _healthy(self) -> bool:
        (low, high), (least, most) = self._heights, self._angles
        if not (low < self._qpos.item(1) < high and least < self._qpos.item(2) < most):
            return False
        if self._states is None:
            return True
        low, high = self._states
        rest, qvel = self._rest, self._qvel
        # If the sum of squares is below that of the nearest bound, no number is beyond a bound.
        nearest = min(-low, high)
        if nearest > 0 and rest.dot(rest) + qvel.dot(qvel) < 0.99 * nearest * nearest:
            return True
        state = np.concatenate((rest, qvel))
        return bool(((low < state) & (state < high)).all())


def _trial(fast: FastWalker) -> bool:
    # Both step the same environment from the same state, one after the other.
    space = fast.action_space
    assert isinstance(space, gym.spaces.Box)
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (_TRIAL, *space.shape)).astype(np.float32)
    found: list[list[Any]] = []
    for env in (fast.env, fast):
        steps = [env.reset(seed=0)[0].tobytes()]
        for action in actions:
            obs, reward, terminated, truncated, _ = env.step(action)
            steps += [obs.tobytes(), float(reward), bool(terminated), bool(truncated)]
        found.append(steps)
    return found[0] == found[1]
