"""Small environments and data for the tests of envs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode, Trajectories

OBS, ACTION = 3, 2


class Walk(gym.Env[NDArray[np.float64], NDArray[np.float32]]):
    """A random walk whose length, noise and rewards depend on the seed and the actions alone.

    It ends at random, and is cut after `horizon` steps. `live` counts environments not closed.
    """

    live = 0

    def __init__(
        self, horizon: int = 40, hazard: float = 0.05, low: float = -1.0, high: float = 1.0
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
        self.action_space = gym.spaces.Box(low, high, (ACTION,), np.float32)
        self.horizon, self.hazard, self.open = horizon, hazard, True
        type(self).live += 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.position = self.np_random.normal(size=OBS)
        return self.position.copy(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.position = self.position + self.np_random.normal(size=OBS) + np.sum(action)
        ended = bool(self.np_random.random() < self.hazard)
        reward = float(1.0 + action[0] + 0.1 * self.position[0])
        return self.position.copy(), reward, ended, self.steps >= self.horizon, {}

    def close(self) -> None:
        if self.open:
            type(self).live -= 1
        self.open = False


class Goals(Walk):
    """The walk with observations of many parts, their names not in the order of the alphabet.

    It ends with success where x passes `line`; the numbers are those of Walk.
    """

    def __init__(self, line: float = np.inf, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.line = line
        box = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space: Any = gym.spaces.Dict(  # type: ignore[assignment]
            {
                "speed": gym.spaces.Box(-99, 99, (2, 1), np.float32),
                "mode": gym.spaces.Discrete(3, start=5),
                "goal": gym.spaces.Dict({"y": box, "x": box}),
                "pair": gym.spaces.Tuple((gym.spaces.MultiBinary(2), box)),
            }
        )

    def _dict(self, obs: NDArray[np.float64]) -> dict[str, Any]:
        x, y, z = obs
        return {
            "speed": np.array([[x + 10], [y + 10]], np.float32),
            "mode": 5 + self.steps % 3,
            "goal": {"y": np.array([y]), "x": np.array([x])},
            "pair": (np.array([0, 1], np.int8), np.array([z])),
        }

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        obs, info = super().reset(**kwargs)
        return self._dict(obs), info

    def step(self, action: NDArray[np.float32]) -> Any:
        obs, reward, ended, cut, _ = super().step(action)
        success = bool(obs[0] > self.line)
        return self._dict(obs), reward, ended or success, cut, {"success": success}


def register_goals(env_id: str = "ToyGoals-v0", **kwargs: Any) -> str:
    """Register Goals with gymnasium, once."""
    if env_id not in gym.registry:
        gym.register(env_id, "tests.support.toys:Goals", kwargs=kwargs)
    return env_id


def register(env_id: str = "ToyWalk-v0", **kwargs: Any) -> str:
    """Register Walk with gymnasium, once."""
    if env_id not in gym.registry:
        gym.register(env_id, "tests.support.toys:Walk", kwargs=kwargs)
    assert gym.registry[env_id].kwargs == kwargs, f"{env_id} is another test's"
    return env_id


class Memory:
    """An actor whose rows have a memory, so that any mix-up of rows shows in its actions."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.sums: NDArray[np.float64] | None = None
        self.rows: list[int] = []
        if keeps:
            self.keep: Callable[[NDArray[np.int64]], None] = self._keep

    def __call__(
        self,
        obs: NDArray[np.float64],
        reward: NDArray[np.float64],
        resets: NDArray[np.bool_],
        episode: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        if self.sums is None:
            self.sums = np.full(len(obs), np.nan)
        assert len(self.sums) == len(obs) == len(reward) == len(resets) == len(episode)
        assert (reward[resets] == 0).all()
        self.rows.append(len(obs))
        self.sums = np.where(resets, 0.0, self.sums) + reward + obs[:, 0] + episode
        return np.stack((np.sin(self.sums), np.cos(self.sums)), axis=1)

    def _keep(self, rows: NDArray[np.int64]) -> None:
        assert self.sums is not None
        self.sums = self.sums[rows]


def episodes(lengths: Sequence[int], seed: int = 0, *, extra: bool = True) -> list[Episode]:
    """Return random episodes whose every number tells its place: obs[:, 0] counts all steps."""
    rng, made, count = np.random.default_rng(seed), list[Episode](), 0
    for index, length in enumerate(lengths):
        obs = rng.normal(size=(length + extra, OBS))
        obs[:length, 0] = np.arange(count, count + length)
        action = rng.uniform(-1, 1, (length, ACTION))
        made.append(Episode(obs, action, rng.normal(size=length), index % 2 == 0, seed=index))
        count += length
    return made


def data(lengths: Sequence[int], seed: int = 0) -> Trajectories:
    """Return `episodes` as Trajectories."""
    return Trajectories.from_episodes(episodes(lengths, seed), env="ToyWalk-v0", name="toy/t-v0")
