"""Synthetic data sets for benchmarks.data, in the layouts in which Minari and D4RL store theirs."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

OBS, ACTION = 17, 6  # HalfCheetah's
ENV_ID = "HalfCheetah-v5"


def write_minari(root: Path, dataset_id: str, episodes: int, length: int) -> None:
    """Write a Minari set as Minari does: a group an episode, float64, chunks of HDF5's choice."""
    folder = root / dataset_id / "data"
    folder.mkdir(parents=True)
    box = {"type": "Box", "dtype": "float64"}
    wide, narrow = (
        box | {"shape": [size], "low": [low] * size, "high": [-low] * size}
        for size, low in ((OBS, -np.inf), (ACTION, -1.0))
    )
    spec = {
        "id": ENV_ID,
        "entry_point": "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv",
        "reward_threshold": 4800.0,
        "nondeterministic": False,
        "max_episode_steps": 1000,
        "order_enforce": True,
        "disable_env_checker": False,
        "kwargs": {},
        "additional_wrappers": [],
        "vector_entry_point": None,
    }
    about = {
        "dataset_id": dataset_id,
        "total_episodes": episodes,
        "total_steps": episodes * length,
        "data_format": "hdf5",
        "observation_space": json.dumps(wide),
        "action_space": json.dumps(narrow | {"dtype": "float32"}),
        "env_spec": json.dumps(spec),
        "minari_version": "0.5.4",
    }
    (folder / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    obs, action, reward = _episode(length)
    flags = np.zeros(length, np.bool_)
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for i in range(episodes):
            group = file.create_group(f"episode_{i}")
            group.attrs["id"], group.attrs["total_steps"] = i, length
            for key, values in {
                "observations": obs + i,
                "actions": action,
                "rewards": reward,
                "terminations": flags,
                "truncations": flags,
            }.items():
                shape = (None, *values.shape[1:])
                group.create_dataset(key, data=values, chunks=True, maxshape=shape)


def write_d4rl(path: Path, episodes: int, length: int) -> None:
    """Write a file as D4RL's of gym_mujoco_v2: float32, gzip, all episodes end to end."""
    obs, action, reward = (values.astype(np.float32) for values in _episode(length))
    steps = episodes * length
    ends = np.arange(1, length + 1) == length
    with h5py.File(path, "w") as file:
        for key, width, one in (
            ("observations", (OBS,), obs[:-1]),
            ("next_observations", (OBS,), obs[1:]),
            ("actions", (ACTION,), action),
            ("rewards", (), reward),
            ("terminals", (), np.zeros(length, np.bool_)),
            ("timeouts", (), ends),
        ):
            data = file.create_dataset(
                key, (steps, *width), one.dtype, chunks=True, compression="gzip"
            )
            for first in range(0, steps, 50 * length):
                count = min(50, (steps - first) // length)
                data[first : first + count * length] = np.tile(one, (count, *(1 for _ in width)))


def _episode(length: int) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (length, ACTION)).astype(np.float32)
    return rng.standard_normal((length + 1, OBS)), action, rng.standard_normal(length)
