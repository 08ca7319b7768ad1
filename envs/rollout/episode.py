"""What a rollout plays: its world, the rows of its batch, and what came of each episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode
from envs.worlds.fast_mujoco import Direct, direct
from envs.worlds.make import EnvLike, make_env


class Unsound(Exception):
    """What an environment gave is not what it has to be."""


@dataclass
class Played:
    """What came of one episode."""

    index: int
    """Its place in the queue."""
    total: float = 0.0
    """Sum of the rewards; NaN where it failed."""
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    episode: Episode | None = None
    failure: str | None = None
    """In one line, where its environment raised an error or gave what is no finite number."""


@dataclass(frozen=True)
class World:
    """What is played, and how: all that a process has to know, beside the actor."""

    env: EnvLike
    seeds: list[int]
    record: bool
    forgiving: bool = False
    """An environment that fails costs its episode; otherwise its error is raised."""

    def make(self) -> gym.Env[Any, Any] | Direct:
        """Make an environment."""
        return direct(make_env(self.env))


@dataclass(slots=True)
class Row:
    """One environment and the episode that it is in."""

    env: gym.Env[Any, Any] | Direct
    lost: bool = False
    """Its environment has failed and is closed, and none could be made in its place."""
    index: int = -1
    total: float = 0.0
    length: int = 0
    success: bool | None = None
    obs: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    actions: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    rewards: list[float] = field(default_factory=list[float])

    def begin(self, index: int, seed: int, record: bool) -> NDArray[Any]:
        """Start an episode, and return its first observation."""
        self.index, self.total, self.length, self.success = index, 0.0, 0, None
        obs, _ = self.env.reset(seed=seed)
        if record:
            self.obs, self.actions, self.rewards = [_copied(obs)], [], []
        return obs

    def add(self, obs: Any, action: NDArray[Any], reward: float) -> None:
        """Record a step. Raises Unsound where the observation is no array."""
        self.obs.append(_copied(obs))
        self.actions.append(np.array(action))
        self.rewards.append(reward)

    def end(self, terminated: bool, seed: int, record: bool) -> Played:
        """Return what came of the episode."""
        played = Played(self.index, self.total, self.length, terminated, self.success)
        if record:
            steps = np.stack(self.obs), np.stack(self.actions), np.array(self.rewards)
            played.episode = Episode(*steps, terminated, seed)
        return played


def _copied(obs: Any) -> NDArray[Any]:
    try:
        return np.array(obs)
    except (TypeError, ValueError):  # rows of several lengths
        raise Unsound("the environment's observation is no array of numbers") from None
