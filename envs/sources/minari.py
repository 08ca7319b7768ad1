"""Minari data sets on the disk: read one in one pass, write one so that it is whole or absent.

The layout is Minari's own: ROOT/namespace/name-v0/data/{metadata.json, main_data.hdf5}, one HDF5
group an episode. Reading HDF5 directly is several times faster than Minari's episode objects;
other storage formats (Arrow, Parquet) go through Minari.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import h5py
import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.make import make_env
from envs.trajectories import Episode, Trajectories

_ID = re.compile(r"^([-_\w][-_\w/]*[-_\w]+/)?[-_\w]+?-v\d+$")
_DATA_FILE = "main_data.hdf5"
_PARTIAL = ".partial-"


def root() -> Path:
    """Return Minari's folder: $MINARI_DATASETS_PATH or ~/.minari/datasets."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return Path(given) if given else Path.home() / ".minari" / "datasets"


def list_ids() -> list[str]:
    """Return the ids of all data sets on the disk, sorted."""
    base, found = root(), list[str]()
    for folder, names, _ in os.walk(base):
        names[:] = [name for name in names if not name.startswith(".")]
        if "data" in names and (Path(folder) / "data" / "metadata.json").is_file():
            found.append(Path(folder).relative_to(base).as_posix())
            names.clear()
    return sorted(found)


def exists(dataset_id: str) -> bool:
    """Return whether there is anything where Minari keeps this data set."""
    return _ID.fullmatch(dataset_id) is not None and (root() / dataset_id / "data").is_dir()


def read(dataset_id: str) -> Trajectories:
    """Read a data set of flat observations and actions.

    Actions are clipped to the bounds of the action space, as D4RL does and as MuJoCo does to what
    it is given: human demonstrations hold values outside, which no agent could produce.
    Raises UserError where the data set is missing, incomplete, broken or not of flat arrays.
    """
    folder = root() / dataset_id
    try:
        metadata: dict[str, Any] = json.loads((folder / "data" / "metadata.json").read_text())
        total = int(metadata["total_episodes"])
        data_format = str(metadata.get("data_format", "hdf5"))
        if data_format == "hdf5":
            episodes = _read_hdf5(folder / "data" / _DATA_FILE, total, dataset_id)
        else:
            episodes = _read_through_minari(dataset_id, data_format)
    except FileNotFoundError as error:
        raise UserError(f"{dataset_id} is not complete in {folder}: {_again(folder)}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{dataset_id} cannot be read ({error}): {_again(folder)}") from error
    if len(episodes) != total:
        raise UserError(
            f"{dataset_id} has {len(episodes)} episodes, its metadata says {total}: "
            f"{_again(folder)}"
        )
    low, high = _action_bounds(metadata)
    trajectories = Trajectories.from_episodes(
        episodes,
        env_id=_env_id(metadata),
        name=dataset_id,
        action_low=low,
        action_high=high,
    )
    if trajectories.action_low.shape == (trajectories.action_dim,):
        np.clip(
            trajectories.action,
            trajectories.action_low,
            trajectories.action_high,
            out=trajectories.action,
        )
    return trajectories


def check_new(dataset_id: str) -> None:
    """Raise UserError where the id is malformed or taken."""
    if _ID.fullmatch(dataset_id) is None:
        raise UserError(f"{dataset_id!r} is not a Minari id; it must look like name/space-v0")
    if (root() / dataset_id).exists():
        raise UserError(
            f"{dataset_id} exists already; choose another name or version, "
            f"or delete {root() / dataset_id}"
        )


def write(
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    env_id: str,
    description: str,
    algorithm: str = "unknown",
    author: str = "the minrnn project",
    code: str = "envs/behaviour/generate.py of the minrnn project",
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a Minari data set that any Minari tool reads, and return its folder.

    Everything is written into a hidden folder beside it, which is renamed at the end: a data set
    is there as a whole or not at all. Where another process was first, its data set stays.
    Episodes without an observation after their last step get that step's once more.
    Raises UserError where the id is taken, an episode is defective, or the disk is full.
    """
    check_new(dataset_id)
    env = make_env(env_id)
    try:
        metadata = _metadata(dataset_id, episodes, env) | {
            "algorithm_name": algorithm,
            "author": [author],
            "code_permalink": code,
            "description": description,
            **(extra or {}),
        }
    finally:
        env.close()
    # Defects are to be found now, not at the first training.
    Trajectories.from_episodes(episodes, env_id=env_id, name=dataset_id)
    image = _hdf5_image(episodes)
    metadata["dataset_size"] = round(len(image) / 1e6, 1)
    target = root() / dataset_id
    with _disk_errors(target):
        root().mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=partial_prefix(dataset_id), dir=root()))
        try:
            data = partial / "data"
            data.mkdir()
            _write_synced(data / _DATA_FILE, image)
            _write_synced(data / "metadata.json", json.dumps(metadata).encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_namespaces(target.parent)
            _rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def partial_prefix(dataset_id: str) -> str:
    """Return how the names of hidden folders begin in which this data set is being written."""
    return f"{_PARTIAL}{dataset_id.replace('/', '.')}-"


def _rename(partial: Path, target: Path) -> None:
    partial.chmod(0o755)  # mkdtemp makes it private
    try:
        os.rename(partial, target)
    except OSError:
        if not (target / "data" / "metadata.json").is_file():
            raise


def _again(folder: Path) -> str:
    return f"delete {folder} and make or download the data set again"


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


def _env_id(metadata: dict[str, Any]) -> str:
    spec = metadata.get("env_spec") or "{}"
    return str(json.loads(spec).get("id", ""))


def _action_bounds(metadata: dict[str, Any]) -> tuple[list[float] | None, list[float] | None]:
    space: dict[str, Any] = json.loads(metadata.get("action_space") or "{}")
    if space.get("type") != "Box":
        return None, None
    return space["low"], space["high"]


def _metadata(
    dataset_id: str, episodes: Sequence[Episode], env: gym.Env[Any, Any]
) -> dict[str, Any]:
    from minari.serialization import serialize_space

    metadata = {
        "dataset_id": dataset_id,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": version("minari"),
        "total_episodes": len(episodes),
        "total_steps": sum(len(episode.reward) for episode in episodes),
        "observation_space": serialize_space(env.observation_space),
        "action_space": serialize_space(env.action_space),
        "requirements": [f"{name}=={version(name)}" for name in ("gymnasium", "mujoco")],
    }
    if env.spec is not None:
        metadata["env_spec"] = env.spec.to_json()
    return metadata


def _hdf5_image(episodes: Sequence[Episode]) -> bytes:
    """Build the HDF5 file in memory: on a full disk HDF5 itself may crash while it closes a file,
    plain bytes are written by Python, which reports it."""
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
            ends = np.zeros(length, np.bool_)
            ends[-1] = True
            group["observations"] = obs
            group["actions"] = episode.action
            group["rewards"] = np.asarray(episode.reward, np.float64)
            group["terminations"] = ends & episode.terminated
            group["truncations"] = ends & (not episode.terminated)
        file.flush()
        return file.id.get_file_image()


def _write_namespaces(folder: Path) -> None:
    """Mark each level between the root and the data set as a Minari namespace."""
    while folder != root() and root() in folder.parents:
        path = folder / "namespace_metadata.json"
        if not path.exists():
            path.write_text("{}")
        folder = folder.parent


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # some file systems report a full disk only here


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror or error}); nothing was left there: free some "
            f"space or point MINARI_DATASETS_PATH to a folder that can be written"
        ) from error
