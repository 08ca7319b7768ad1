"""A cache of loaded data sets: flat .npy files, memory-mapped, so that a second start is instant.

It is in $MINRNN_CACHE or in the platform's folder for caches, on Linux ~/.cache/minrnn. It may be
deleted at any time. A problem with it is a warning, and the data is read from its source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from envs.data.trajectories import Trajectories
from envs.errors import UserError, one_line
from envs.files import WRITING, atomic_folder, home, remove_folder
from envs.worlds.interface import Interface
from envs.worlds.spec import EnvSpec

VERSION = 4  # of the format and of the repairs; entries of other versions are not read
MIN_BYTES = 16_000_000  # smaller data sets are not cached: they load fast enough
MAX_BYTES = 20_000_000_000  # of all entries; the least recently used are deleted first
_LARGE = ("obs", "action", "reward", "final_obs")
_ARRAYS = (*_LARGE, "starts", "terminated", "action_low", "action_high", "obs_offset")
_TYPES = {
    "starts": np.int64,
    "terminated": np.bool_,
    "obs_offset": np.float64,
}  # the others are float32
_PARTIAL = ".minrnn-partial-"
_NAME = re.compile("[0-9a-f]{32}")  # of entries; nothing else is ever deleted
_ABANDONED = 24 * 3600.0  # seconds after which a partial folder must be of a killed process


def root() -> Path:
    """Return the cache's folder: $MINRNN_CACHE, or minrnn in the platform's folder for caches.

    That is ~/.cache (or $XDG_CACHE_HOME), ~/Library/Caches or %LOCALAPPDATA%.
    """
    if named := os.environ.get("MINRNN_CACHE"):
        return Path(named)
    if not os.environ.get("XDG_CACHE_HOME"):
        home("MINRNN_CACHE")  # there may be none
    return platformdirs.user_cache_path("minrnn", appauthor=False)


def cached(
    key_files: Sequence[Path],
    options: Mapping[str, Any],
    make: Callable[[], Trajectories],
    *,
    enabled: bool = True,
) -> Trajectories:
    """Return the data set that `make` returns, from the cache where it has it.

    key_files: the files it is read from; it is made again when a path, size or modification time
    changes. options: what else it depends on, fit for JSON.
    The arrays are always read-only; those from the cache are memory maps.
    """
    if not enabled:
        return _frozen(make())
    folder: Path | None = None
    there = False
    with _warn("cannot be read"):
        folder = root() / _key(key_files, options)
        there = folder.is_dir()
        if there:
            return _frozen(_load(folder))
    made = _frozen(make())
    if folder is not None and _size(made) >= MIN_BYTES:
        with _warn("cannot be written"):
            _store(made, folder, broken=there)
    return made


def _frozen(made: Trajectories) -> Trajectories:
    for values in _arrays(made).values():
        values.setflags(write=False)
    return made


def _arrays(made: Trajectories) -> dict[str, Any]:
    arrays = {name: getattr(made, name) for name in _ARRAYS}
    return {name: values for name, values in arrays.items() if values is not None}


def _key(key_files: Sequence[Path], options: Mapping[str, Any]) -> str:
    about = [(path.absolute(), path.stat()) for path in key_files]
    files = [(str(path), status.st_size, status.st_mtime_ns) for path, status in about]
    text = json.dumps([VERSION, files, dict(options)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _size(made: Trajectories) -> int:
    return sum(values.nbytes for values in _arrays(made).values())


def _load(folder: Path) -> Trajectories:
    """Return the data set of an entry; any exception means that the entry is damaged."""
    about = json.loads((folder / "about.json").read_bytes())
    arrays: dict[str, Any] = {}
    for name in (name for name in _ARRAYS if name in about["sizes"]):
        path = folder / f"{name}.npy"
        if path.stat().st_size != about["sizes"][name]:
            raise ValueError(f"{path.name} does not have the size that was written")
        arrays[name] = np.asarray(np.load(path, mmap_mode="r" if name in _LARGE else None))
    fields = about["fields"]
    fields["notes"] = tuple(fields["notes"])
    fields["env"] = EnvSpec.from_json(fields["env"])
    fields["recorded"] = tuple(Interface.from_json(each) for each in fields["recorded"])
    if fields.get("reference") is not None:
        low, high, source = fields["reference"]
        fields["reference"] = float(low), float(high), one_line(source)
    made = Trajectories(**arrays, **fields)
    _check(made)
    with suppress(OSError):  # the entry is another user's
        os.utime(folder)  # marks it as used now
    return made


def _check(made: Trajectories) -> None:
    """Raise an error where an entry does not hold a valid data set; its numbers are not checked."""
    for name, values in _arrays(made).items():
        wanted = _TYPES.get(name, np.float32)
        if values.dtype != wanted or not values.flags.c_contiguous:
            raise ValueError(f"{name} is of type {values.dtype}")
    wrappers = [name for name, _ in made.env.wrappers]
    texts = (made.env_id, made.name, *made.env.obs_keys, *wrappers, *made.notes)
    tables = (made.env.kwargs, made.env.reset_options, *(more for _, more in made.env.wrappers))
    printable = all(one_line(text) == text for text in texts)
    if not (printable and all(isinstance(table, dict) for table in tables)):
        raise ValueError("about.json does not have the fields that were written")
    made.validate(numbers=False)


def _store(made: Trajectories, folder: Path, *, broken: bool) -> None:
    """Write an entry. broken: whether to remove a damaged one first."""
    base, size = folder.parent, _size(made)
    base.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(base).free
    if free < 1.1 * size + 1e8:
        raise OSError(f"{size / 1e6:.0f} MB do not fit, {free / 1e6:.0f} MB are free")
    fields: dict[str, Any] = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.name not in (*_ARRAYS, "weights", "env", "recorded")
    }
    fields["env"] = made.env.to_json()
    fields["recorded"] = [each.to_json() for each in made.recorded]
    if broken:
        remove_folder(folder)
    # The entry of another process that was first is the same.
    with atomic_folder(folder, replace=False, aside=base / _PARTIAL) as partial:
        sizes: dict[str, int] = {}
        for name, values in _arrays(made).items():
            path = partial / f"{name}.npy"
            np.save(path, values)
            sizes[name] = path.stat().st_size
        text = json.dumps({"sizes": sizes, "fields": fields})
        (partial / "about.json").write_bytes(text.encode())
    _drop_least_recent(base, keep=folder)


def _drop_least_recent(base: Path, keep: Path) -> None:
    """Delete the least recently used entries beyond the limit, and what killed processes left."""
    now, found = time.time(), list[tuple[float, int, Path]]()
    for folder in base.iterdir():
        with suppress(FileNotFoundError):  # another process may have deleted it
            used = folder.stat().st_mtime
            if folder.name.startswith((_PARTIAL, WRITING)):
                if now - used > _ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)
            elif _NAME.fullmatch(folder.name):
                size = sum(file.stat().st_size for file in folder.iterdir())
                found.append((math.inf if folder == keep else used, size, folder))
    total = 0
    for _, size, folder in sorted(found, reverse=True):
        total += size
        if total > MAX_BYTES and folder != keep:
            remove_folder(folder)  # on Windows one that is in use stays, whole


@contextmanager
def _warn(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the source of the data is still there
        where = f" in {root()}" if not isinstance(error, UserError) else ""
        warnings.warn(
            f"the cache{where} {what} ({' '.join(str(error).split())}); reading the data from "
            f"its source. MINRNN_CACHE names another folder",
            UserWarning,
            stacklevel=4,
        )
