"""Minari data sets on the disk: read one in one pass; `write` makes one.

The layout is Minari's own: ROOT/namespace/name-v0/data/{metadata.json, main_data.hdf5}, one HDF5
group an episode. Reading HDF5 directly is several times faster than Minari's episode objects;
other storage formats (Arrow, Parquet) go through Minari.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.sources.env_spec import check_plain, table
from envs.sources.folder import check_new, exists, list_ids, root
from envs.sources.minari_writer import DATA_FILE, write
from envs.trajectories import Episode, Trajectories

__all__ = ["check_new", "exists", "list_ids", "metadata", "read", "root", "write"]


def read(dataset_id: str) -> Trajectories:
    """Read a data set of flat observations and actions.

    Actions are clipped to the bounds of the action space, as D4RL does and as MuJoCo does to what
    it is given: human demonstrations hold values outside, which no agent could produce. Where the
    space has no bounds, the data's own least and greatest actions are taken for them.
    Warns where the data is of an environment with other arguments than the registered one: only
    its id is kept.
    Raises UserError where the data set is missing, incomplete, broken or not of flat arrays.
    """
    about = metadata(dataset_id)
    with _read_errors(dataset_id):
        total = int(about["total_episodes"])
        data_format = str(about.get("data_format", "hdf5"))
        low, high = _action_bounds(about)
        spec = table(about.get("env_spec"), "env_spec")
        if data_format == "hdf5":
            episodes = _read_hdf5(_data(dataset_id) / DATA_FILE, total, dataset_id)
        else:
            episodes = _read_through_minari(dataset_id, data_format)
    if len(episodes) != total:
        raise UserError(
            f"{dataset_id} has {len(episodes)} episodes, its metadata says {total}; "
            f"{_again(dataset_id)}"
        )
    with _read_errors(dataset_id):
        trajectories = Trajectories.from_episodes(
            episodes,
            env_id=str(spec.get("id", "")),
            name=dataset_id,
            action_low=low,
            action_high=high,
        )
        check_plain(spec, dataset_id)
    low, high = trajectories.action_low, trajectories.action_high
    np.clip(trajectories.action, low, high, out=trajectories.action)
    return trajectories


def metadata(dataset_id: str) -> dict[str, Any]:
    """Return what a data set says about itself; UserError where it is missing or broken."""
    with _read_errors(dataset_id):
        about = json.loads((_data(dataset_id) / "metadata.json").read_text())
        if not isinstance(about, dict):
            raise ValueError("metadata.json holds no table")
        return cast(dict[str, Any], about)


def _data(dataset_id: str) -> Path:
    return root() / dataset_id / "data"


@contextmanager
def _read_errors(dataset_id: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{dataset_id} is not complete; {_again(dataset_id)}") from error
    except (
        *(OSError, RuntimeError, ArithmeticError),  # of HDF5, and of numbers such as 1e999
        *(ValueError, TypeError, AttributeError, KeyError, IndexError),
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{dataset_id} cannot be read ({reason}); {_again(dataset_id)}") from error


def _again(dataset_id: str) -> str:
    return f"delete {root() / dataset_id} and make or download it again"


def _read_hdf5(path: Path, total: int, dataset_id: str) -> list[Episode]:
    episodes: list[Episode] = []
    with h5py.File(path, "r") as file:
        for i in range(total):
            group = cast(h5py.Group, file[f"episode_{i}"])
            obs, action = group["observations"], group["actions"]
            if not isinstance(obs, h5py.Dataset) or not isinstance(action, h5py.Dataset):
                raise UserError(
                    f"{dataset_id} has observations or actions made of several parts (a Dict "
                    f"space); only flat arrays are supported, choose another data set"
                )
            terminations = cast(h5py.Dataset, group["terminations"])
            seed = group.attrs.get("seed")
            episodes.append(
                Episode(
                    obs[()],
                    action[()],
                    cast(h5py.Dataset, group["rewards"])[()],
                    bool(len(terminations) and terminations[-1]),
                    None if seed is None else int(cast(int, seed)),
                )
            )
    return episodes


def _read_through_minari(dataset_id: str, data_format: str) -> list[Episode]:
    import minari

    try:
        loaded = minari.load_dataset(dataset_id)
        episodes = list(loaded.iterate_episodes())
    except ImportError as error:
        raise UserError(
            f'{dataset_id} is stored as {data_format}: pip install "minari[{data_format}]"'
        ) from error
    for episode in episodes[:1]:
        if not isinstance(episode.observations, np.ndarray):
            raise UserError(
                f"{dataset_id} has observations made of several parts (a Dict space); only flat "
                f"arrays are supported, choose another data set"
            )
    return [
        Episode(
            cast(NDArray[Any], e.observations),
            cast(NDArray[Any], e.actions),
            e.rewards,
            bool(e.terminations[-1]),
        )
        for e in episodes
    ]


def _action_bounds(
    about: dict[str, Any],
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    space = table(about.get("action_space"), "action_space")
    if space.get("type") != "Box":
        return None, None
    return np.asarray(space["low"], np.float64), np.asarray(space["high"], np.float64)
