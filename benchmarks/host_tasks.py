"""Partially observable tasks for the agents of other libraries; see benchmarks/host_curves.py."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

# Where the velocities are in an observation.
VELOCITIES = {"Pendulum-v1": slice(2, 3), "Hopper-v5": slice(5, 11)}
OPTIMUM = {"repeat-first": 1.0}


class RepeatFirst(VectorEnv):
    """A task: name the first card at every step (POPGym's RepeatFirst, arXiv:2303.01859).

    observation: (B, 5) the card dealt, of four suits, one-hot, and whether it is the first.
    action: (B,) a suit. Right pays 1 / length, wrong costs as much: the best return is 1, and
    without a memory (right at the first card only, then one in four) it is 1.5 / length - 0.5.
    An episode starts in the step that ends the last (SAME_STEP).
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (as in Gymnasium)
    render_mode = None

    def __init__(self, num_envs: int, length: int = 52) -> None:
        self.num_envs, self.length = num_envs, length
        self.single_observation_space = spaces.Box(0, 1, (5,), np.float32)
        self.single_action_space = spaces.Discrete(4)
        self.observation_space = spaces.Box(0, 1, (num_envs, 5), np.float32)
        self.action_space = spaces.MultiDiscrete([4] * num_envs)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Deal the first cards."""
        super().reset(seed=seed)
        self.time = np.zeros(self.num_envs, int)
        self.first = np.zeros(self.num_envs, int)
        return self._deal(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Pay for the actions and deal the next cards."""
        reward = np.where(np.asarray(actions) == self.first, 1.0, -1.0) / self.length
        self.time += 1
        done = self.time == self.length
        infos = {"final_obs": np.array([None] * self.num_envs), "_final_obs": done}
        if done.any():
            last = self._deal()
            for row in np.flatnonzero(done):
                infos["final_obs"][row] = last[row]
        self.time[done] = 0
        return self._deal(), reward, done, np.zeros(self.num_envs, bool), infos

    def _deal(self) -> Any:
        cards = self.np_random.integers(4, size=self.num_envs)
        start = self.time == 0
        self.first = np.where(start, cards, self.first)
        return np.concatenate([np.eye(4)[cards], start[:, None]], 1).astype(np.float32)


class FromVector(VecEnv):
    """A vector environment of Gymnasium, with SAME_STEP autoreset, as one of Stable-Baselines3."""

    def __init__(self, envs: VectorEnv, seed: int) -> None:
        self.envs, self.first_seed = envs, seed
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Reset the environments and return their observations."""
        return self.envs.reset(seed=self.first_seed)[0]

    def step_async(self, actions: Any) -> None:
        """Store the actions for `step_wait`."""
        self.actions = actions

    def step_wait(self) -> Any:
        """Step the environments with the stored actions."""
        obs, reward, terminated, truncated, found = self.envs.step(self.actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(done):
            infos[row]["terminal_observation"] = found["final_obs"][row]
            infos[row]["TimeLimit.truncated"] = bool(truncated[row])
        return obs, reward, done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, which the environments share."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute, which the environments share."""
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Raise NotImplementedError: there is one object for all environments."""
        raise NotImplementedError("these environments are stepped together")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False for each."""
        return [False] * len(list(self._get_indices(indices)))


def masked(env_id: str) -> gym.Env:
    """Make an environment that does not show its velocities."""
    env = gym.make(env_id)
    space = env.observation_space
    assert isinstance(space, spaces.Box)
    seen = np.ones(space.shape, bool)
    seen[VELOCITIES[env_id]] = False
    low, high = (bound[seen].astype(np.float32) for bound in (space.low, space.high))
    shown = spaces.Box(low, high, dtype=np.float32)
    return gym.wrappers.TransformObservation(env, lambda obs: obs[seen].astype(np.float32), shown)


def make(task: str, num_envs: int, seed: int) -> VecEnv:
    """Make a task's environments; returns are counted before any scaling of rewards."""
    if task == "repeat-first":
        return VecMonitor(FromVector(RepeatFirst(num_envs), seed))
    envs = DummyVecEnv([lambda: masked(task)] * num_envs)
    envs.seed(seed)
    return VecMonitor(envs)


def scaled(envs: VecEnv, gamma: float) -> VecNormalize:
    """Normalise observations and rewards by running statistics."""
    return VecNormalize(envs, gamma=gamma)
