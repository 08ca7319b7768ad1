"""Writer of Minari data sets, which appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Episode, Trajectories
from envs.errors import UserError
from envs.files import atomic_folder
from envs.sources.minari.folder import OTHER_ROOT, check_new, hidden, root
from envs.worlds.flat import Part, parts
from envs.worlds.make import make_raw
from envs.worlds.spec import EnvSpec

DATA_FILE = "main_data.hdf5"
FINAL_OBS = "minrnn_final_obs"
"""Metadata: whether the last observation of every episode was recorded, or is a copy."""


def write(
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    env: EnvSpec | str,
    eval_env: EnvSpec | None = None,
    description: str,
    algorithm: str = "unknown",
    author: str = "the minrnn project",
    code: str = "envs/behaviour/generate.py of the minrnn project",
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a data set that any Minari tool can read, and return its folder.

    env: the environment that was recorded. eval_env: the one that the data is made for, where
    that is another. Flat Dict and Tuple observations (envs.worlds.flat) are stored in parts.
    Where another process was first, its data set stays. Minari wants T + 1 observations: episodes
    with T get a copy of the last, which the metadata says.
    Raises UserError where the id is taken, an episode is defective, or the disk is full.
    """
    check_new(dataset_id)
    env_id, made = EnvSpec.of(env).env_id, make_raw(env)
    try:
        layout = parts(made.observation_space, where=env_id)
        about = _metadata(dataset_id, episodes, made) | {
            "algorithm_name": algorithm,
            "author": [author],
            "code_permalink": code,
            "description": description,
            FINAL_OBS: all(len(each.obs) > len(each.action) for each in episodes),
            **(extra or {}),
        }
    finally:
        made.close()
    if eval_env is not None:
        evaluated = make_raw(eval_env)
        about["eval_env_spec"] = _spec(evaluated)
        evaluated.close()
    # Finds defects now, and not at the first training. The space has the bounds of actions.
    width = np.asarray(episodes[0].action).shape[-1] if episodes else 0
    anything = {"action_low": np.full(width, -np.inf), "action_high": np.full(width, np.inf)}
    checked = Trajectories.from_episodes(episodes, env=env_id, name=dataset_id, **anything)
    if layout[0].path and checked.obs_dim != (width := sum(part.width for part in layout)):
        raise UserError(
            f"{dataset_id} has observations of size {checked.obs_dim}, {env_id} has {width} in all "
            f"its parts; record them with make_env and no obs_keys"
        )
    image = _hdf5_image(episodes, layout)
    about["dataset_size"] = round(len(image) / 1e6, 1)
    target = root() / dataset_id
    aside = hidden("partial", f"{dataset_id}-")
    with atomic_folder(target, replace=False, aside=aside, advice=OTHER_ROOT) as folder:
        data = folder / "data"
        data.mkdir()
        (data / DATA_FILE).write_bytes(image)
        (data / "metadata.json").write_bytes(json.dumps(about).encode())
        write_namespaces(target.parent)
    return target


def _metadata(
    dataset_id: str, episodes: Sequence[Episode], env: gym.Env[Any, Any]
) -> dict[str, Any]:
    from minari.serialization import serialize_space

    about = {
        "dataset_id": dataset_id,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": version("minari"),
        "total_episodes": len(episodes),
        "total_steps": sum(len(episode.reward) for episode in episodes),
        "observation_space": serialize_space(env.observation_space),
        "action_space": serialize_space(env.action_space),
        "requirements": [f"{name}=={version(name)}" for name in _packages(env)],
    }
    if env.spec is not None:
        about["env_spec"] = _spec(env)
    return about


def _spec(env: gym.Env[Any, Any]) -> str:
    assert env.spec is not None
    try:
        return env.spec.to_json()
    except ValueError as error:
        raise UserError(
            f"{env.spec.id} cannot be named in a file ({error}); register it with an entry "
            f'point as text: "module:Class"'
        ) from error


def _packages(env: gym.Env[Any, Any]) -> list[str]:
    used = ["gymnasium", "mujoco"] if hasattr(env.unwrapped, "model") else ["gymnasium"]
    if type(env.unwrapped).__module__.startswith("gymnasium_robotics"):
        used.append("gymnasium-robotics")
    return used


def _hdf5_image(episodes: Sequence[Episode], layout: tuple[Part, ...]) -> bytes:
    """Return the bytes of the HDF5 file. On a full disk HDF5 may crash, where Python reports it."""
    with h5py.File("image", "w", driver="core", backing_store=False, track_order=True) as file:
        for i, episode in enumerate(episodes):
            group = file.create_group(f"episode_{i}")
            length = len(episode.reward)
            group.attrs["id"] = i
            group.attrs["total_steps"] = length
            if episode.seed is not None:
                group.attrs["seed"] = episode.seed
            obs = np.asarray(episode.obs)
            if len(obs) == length:
                obs = np.concatenate((obs, obs[-1:]))
            ends = np.arange(length) == length - 1
            _store(group, obs, layout)
            group["actions"] = episode.action
            group["rewards"] = np.asarray(episode.reward, np.float64)
            group["terminations"] = ends & episode.terminated
            group["truncations"] = ends & (not episode.terminated)
        file.flush()
        return file.id.get_file_image()


def _store(group: h5py.Group, obs: NDArray[Any], layout: tuple[Part, ...]) -> None:
    """Store observations (T + 1, O) as one array, or one for each part."""
    if not layout[0].path:
        group["observations"] = obs
        return
    ends = np.cumsum([part.width for part in layout])[:-1]
    for part, values in zip(layout, np.split(obs, ends, axis=1), strict=True):
        names = [f"_index_{step}" if isinstance(step, int) else step for step in part.path]
        group["/".join(["observations", *names])] = part.decode(values)


def write_namespaces(folder: Path) -> None:
    """Mark each folder between the root and the data set as a Minari namespace."""
    while folder != root() and root() in folder.parents:
        path = folder / "namespace_metadata.json"
        if not path.exists():
            path.write_bytes(b"{}")
        folder = folder.parent
