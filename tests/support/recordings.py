"""Episodes of random actions in an environment, and Minari data sets of them made by Minari."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from envs.data.trajectories import Episode


def play(env: gym.Env[Any, Any], count: int = 3, steps: int = 1000) -> list[Episode]:
    """Return episodes of random actions, at most `steps` long; observations as they are."""
    episodes: list[Episode] = []
    for seed in range(count):
        env.action_space.seed(seed)
        obs, action, reward, ended, cut = [env.reset(seed=seed)[0]], [], [], False, False
        while not (ended or cut) and len(reward) < steps:
            action.append(env.action_space.sample())
            found, gain, ended, cut, _ = env.step(action[-1])
            obs.append(found)
            reward.append(float(gain))
        seen: Any = obs if isinstance(obs[0], dict) else np.asarray(obs)
        episodes.append(Episode(seen, np.asarray(action), np.asarray(reward), bool(ended), seed))
    return episodes


def record(
    name: str,
    env: gym.Env[Any, Any],
    *,
    options: dict[str, Any] | None = None,
    data_format: str = "hdf5",
    **more: Any,
) -> list[Episode]:
    """Write a Minari data set of `play` with Minari itself; return the episodes.

    options: of the resets, as the data set names them.
    """
    episodes = play(env, **more)
    buffers: list[Any] = []
    for each in episodes:
        obs: Any = each.obs
        if isinstance(obs, list):
            obs = {key: np.asarray([one[key] for one in obs]) for key in obs[0]}
        last = np.arange(len(each.reward)) == len(each.reward) - 1
        buffer: Any = {"observations": obs, "actions": each.action, "rewards": each.reward}
        buffer |= {"terminations": last & each.terminated, "truncations": last & ~each.terminated}
        buffers.append(EpisodeBuffer(seed=each.seed, options=options, **buffer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no author, and others
        minari.create_dataset_from_buffers(name, buffers, env=env, data_format=data_format)
    env.close()
    return episodes
