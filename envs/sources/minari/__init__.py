"""Minari data sets on the disk: `read` and `write`.

ROOT/namespace/name-v0/data/ has metadata.json and either main_data.hdf5 with a group for each
episode, or a folder of Arrow or Parquet files for each. Both are read directly, which is several
times faster than through Minari's episode objects.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from gymnasium import spaces

from envs.data.bounds import NO_BOUNDS
from envs.data.builder import with_offset
from envs.data.cache import cached
from envs.data.trajectories import Trajectories
from envs.errors import UserError, remedy
from envs.sources.minari import arrow, hdf5_file
from envs.sources.minari.arrow import FORMATS, read_arrow
from envs.sources.minari.folder import check_new, exists, is_id, list_ids, root
from envs.sources.minari.hdf5_file import read_hdf5
from envs.sources.minari.recorded_env import Environment, environment
from envs.sources.minari.stored_space import read_space
from envs.sources.minari.writer import DATA_FILE, FINAL_OBS, write
from envs.sources.source import Options, Source
from envs.worlds.flat import Part, parts
from envs.worlds.interface import Interface
from envs.worlds.spec import unlimited

__all__ = ["check_new", "exists", "is_id", "list_ids", "metadata", "read", "root", "write"]


def read(dataset_id: str, *, cache: bool = True, obs_keys: tuple[str, ...] = ()) -> Trajectories:
    """Read a data set; its notes name the repairs (see docs/data.md).

    Dict and Tuple observations become vectors in the order of envs.worlds.flat. An action space
    without bounds gets the least and greatest actions of the data.
    cache: whether large sets are kept in envs.data.cache. obs_keys: the parts of a Dict observation
    that are read, and their order; () is all.
    Raises UserError where the data set is missing, incomplete, damaged or not numeric.
    """
    about = metadata(dataset_id)
    with _read_errors(dataset_id):
        files = sorted(path for path in _data(dataset_id).rglob("*") if path.is_file())
        env = environment(about)  # which depends on what is installed: part of the cache's key
        env = replace(env, spec=replace(env.spec, obs_keys=obs_keys))
        options = {"minari": dataset_id, "env": asdict(env)}
        return cached(files, options, lambda: _read(dataset_id, about, env), enabled=cache)


def metadata(dataset_id: str) -> dict[str, Any]:
    """Return the metadata of a data set; UserError where it is missing or damaged."""
    with _read_errors(dataset_id):
        about = json.loads(_text(_data(dataset_id) / "metadata.json"))
        if not isinstance(about, dict):
            raise ValueError("metadata.json is not a JSON object")
        return cast(dict[str, Any], about)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}); save it in that encoding") from error


def _read(dataset_id: str, about: dict[str, Any], env: Environment) -> Trajectories:
    total = int(about["total_episodes"])
    data_format = str(about.get("data_format", "hdf5"))
    obs = _obs_parts(about, dataset_id, env.spec.obs_keys)
    action, box = _action(about, dataset_id)
    folder = _data(dataset_id)
    if data_format == "hdf5":
        if not (folder / DATA_FILE).is_file():
            raise FileNotFoundError(folder / DATA_FILE)
        fill = functools.partial(read_hdf5, folder / DATA_FILE, dataset_id, total, obs, action)
        names = functools.partial(hdf5_file.reset_options, folder / DATA_FILE)
    elif data_format in FORMATS:
        fill = functools.partial(read_arrow, folder, dataset_id, total, obs, action, data_format)
        names = functools.partial(arrow.reset_options, folder)
    else:
        raise UserError(
            f"{dataset_id} is stored as {data_format}, which is not known here; choose another"
        )
    made, terminated = with_offset(fill)
    # Data sets of older versions lack the entry; of those, only converted ones may have copies.
    if not about.get(FINAL_OBS, "envs/sources/arrays.py" not in str(about.get("code_permalink"))):
        made.final_obs = None
    notes = list(env.notes)
    if options := names():
        notes.append(
            f"its episodes were reset with the options {', '.join(options)}: evaluation has those "
            f"of --data.reset-options alone"
        )
    if (unlimited(box.low) | unlimited(box.high)).any():
        notes.append(NO_BOUNDS)
    found = made.finish(
        terminated=terminated,
        env=env.spec,
        action_low=box.low,
        action_high=box.high,
        horizon=env.horizon,
        notes=notes,
    )
    recorded = Interface.of(obs, box)
    return replace(found, reference=_reference(about), recorded=(recorded,))


def _reference(about: dict[str, Any]) -> tuple[float, float, str] | None:
    """Return the reference returns of Minari's normalised score, None if there are none."""
    low, high = about.get("ref_min_score"), about.get("ref_max_score")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    if not -math.inf < low < high < math.inf:
        return None
    return float(low), float(high), "the data set's own (ref_min_score, ref_max_score)"


def _obs_parts(about: dict[str, Any], dataset_id: str, keys: tuple[str, ...]) -> tuple[Part, ...]:
    space = read_space(about.get("observation_space"), "observation_space")
    if isinstance(space, spaces.Discrete):
        raise UserError(
            f"{dataset_id} has observations of the kind {space}; only numbers are supported, "
            f"choose another data set"
        )
    return parts(space, keys, where=dataset_id)


def _action(about: dict[str, Any], dataset_id: str) -> tuple[Part, spaces.Box]:
    space = read_space(about.get("action_space"), "action_space")
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        discrete = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
        kind = "discrete actions" if discrete else "actions of several parts or dimensions"
        raise UserError(
            f"{dataset_id} has {kind}, {space}; only vectors of numbers (Box) are supported, "
            f"choose another data set"
        )
    return Part((), space, space.shape[0]), space


def _data(dataset_id: str) -> Path:
    return root() / dataset_id / "data"


@contextmanager
def _read_errors(dataset_id: str) -> Iterator[None]:
    again = f"delete {root() / dataset_id} and make or download it again"
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{dataset_id} is not complete; {again}") from error
    except MemoryError as error:
        raise UserError(
            f"{dataset_id} needs more memory than there is; choose a smaller data set"
        ) from error
    except (
        *(OSError, RuntimeError, ArithmeticError),  # of HDF5, and of numbers such as 1e999
        *(ValueError, TypeError, AttributeError, LookupError),
        *(AssertionError, NotImplementedError),  # of gymnasium's spaces, and of Arrow
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{dataset_id} cannot be read ({reason}); {remedy(error, again)}"
        ) from error


def _knows(name: str) -> bool:
    """Return whether a data set is on the disk or may be on the hub, where ids have a namespace."""
    return exists(name) or ("/" in name and not name.startswith("minrnn/") and is_id(name))


def _load(name: str, options: Options) -> Trajectories:
    if not exists(name):
        options.check_download(name, root() / name)
        from envs.sources.minari import remote  # slow to import, and rarely needed

        remote.download(name, progress=options.progress)
    return read(name, cache=options.cache, obs_keys=options.obs_keys)


SOURCE = Source("a Minari id", _knows, _load, list_ids)
