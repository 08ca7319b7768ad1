"""One episode of a rollout: the settings it is run with, the slot it runs in, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode
from envs.worlds.fast_mujoco import FastWalker, fast_path
from envs.worlds.make import EnvLike, make_env


class InvalidOutput(Exception):
    """An environment returned an observation or a reward that cannot be used."""


@dataclass(slots=True)
class Outcome:
    """The outcome of one episode."""

    index: int
    """Its place in the queue."""
    total: float = 0.0
    """Sum of the rewards; NaN where the episode failed."""
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    episode: Episode | None = None
    failure: str | None = None
    """One line, where the environment raised an error or returned numbers that are not finite."""


@dataclass(frozen=True)
class Settings:
    """What every process of a rollout has to know beside the actor."""

    env: EnvLike
    seeds: list[int]
    record: bool
    tolerant: bool = False
    """Whether an environment's error fails its episode alone; otherwise the error is raised."""

    def make(self) -> gym.Env[Any, Any] | FastWalker:
        """Make an environment."""
        return fast_path(make_env(self.env))


@dataclass(slots=True)
class Slot:
    """One environment and the episode that runs in it."""

    env: gym.Env[Any, Any] | FastWalker
    lost: bool = False
    """The environment has failed and is closed, and no other could be made in its place."""
    outcome: Outcome = field(default_factory=lambda: Outcome(-1))
    obs: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    actions: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    rewards: list[float] = field(default_factory=list[float])

    def begin(self, index: int, seed: int, record: bool) -> NDArray[Any]:
        """Start an episode, and return its first observation."""
        self.outcome = Outcome(index)
        obs, _ = self.env.reset(seed=seed)
        if record:
            self.obs, self.actions, self.rewards = [as_array(obs)], [], []
        return obs

    def add(self, obs: Any, action: NDArray[Any], reward: float) -> None:
        """Record a step. Raises InvalidOutput where the observation is not an array."""
        self.obs.append(as_array(obs))
        self.actions.append(np.array(action))
        self.rewards.append(reward)

    def end(self, terminated: bool, seed: int, record: bool) -> Outcome:
        """Return the outcome of the episode."""
        self.outcome.terminated = terminated
        if record:
            steps = np.stack(self.obs), np.stack(self.actions), np.array(self.rewards)
            self.outcome.episode = Episode(*steps, terminated, seed)
        return self.outcome


def as_array(obs: Any, dtype: Any = None) -> NDArray[Any]:
    """Return a copy of an observation; InvalidOutput where it is not an array of numbers."""
    try:
        return np.array(obs, dtype)
    except (TypeError, ValueError):  # nested sequences of unequal lengths
        raise InvalidOutput("the environment's observation is not an array of numbers") from None
