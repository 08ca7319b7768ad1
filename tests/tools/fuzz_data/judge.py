"""What a reader made of a case: read, repaired, refused, or how it failed."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs import sources
from envs.data import cache
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.sources import arrays, minari

from . import bases, campaign
from .metadata import TRAP

USUAL: dict[str, str] = {}
"""The notes of each base as it is."""
_NO_MEMORY = re.compile(
    "memory alloc|(un|not )able to alloc|t allocate|resource unavail|malloc", re.I
)
_MEANT = re.compile("the cache in|Using the latest versioned environment|invalid escape sequence")
_LONGEST = 5000  # letters of a message


class Broken(Exception):
    """What was loaded is not a data set."""


def read(base: str, folder: Path) -> Trajectories:
    """Read a case's folder as a user would."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    os.environ["MINRNN_CACHE"] = str(folder / "cache")
    kind, variant = base.split("/")
    if kind == "cache":
        return _cache(folder)
    if kind == "html":
        return _page(folder)
    if kind == "npz":
        episodes = arrays.read_npz(folder / "data.npz", 40)
        minari.write("fuzz/from-npz-v0", episodes, env=bases.WALK, description="x")
        return sources.load("fuzz/from-npz-v0", cache=False)
    if variant in bases.NAMED:
        os.environ["D4RL_DATASET_DIR"] = str(folder)
        return sources.load(variant, download=False, cache=False, progress=False)
    if kind == "d4rl":
        return sources.load(str(folder / "data.hdf5"), env_id=bases.WALK, cache=False)
    place = folder / "minari" / bases.ID
    place.mkdir(parents=True)
    if (folder / "data").exists():
        (folder / "data").rename(place / "data")
    made = sources.load(bases.ID, download=False, cache=False)
    if made.env_id:
        sources.check_env(made)  # makes the environment that the file names
    return made


def _page(folder: Path) -> Trajectories:
    """Read pages in the place of files, one of each kind; none can be read."""
    last: UserError | None = None
    for base in ("d4rl/data", "npz/data", "minari-flat/data"):
        try:
            return read(base, folder)
        except UserError as error:
            last = error
            _check_line("message", str(error))
    assert last is not None
    raise last


def _cache(folder: Path) -> Trajectories:
    """Read through a mutated entry: a broken one costs a warning, the data is there in any case."""
    from tests.support.toys import data

    key, calls = folder / "key", list[int]()
    key.write_bytes(b"key")
    base, entry = folder / "cache", cache._key([key], {})
    base.mkdir()
    files = [path for path in folder.iterdir() if path.suffix in (".npy", ".json")]
    (base / entry).mkdir()
    for path in files:
        path.rename(base / entry / path.name)

    def anew() -> Trajectories:
        calls.append(1)
        return data(bases.LENGTHS)

    try:
        made = cache.cached([key], {}, anew)
    except UserError as error:
        raise Broken(f"a broken cache is refused: {error}") from error
    # Its numbers are believed: looking at all of them would take as long as reading the source.
    sane = {
        name: np.zeros_like(values)
        for name in ("obs", "action", "reward")
        if (values := getattr(made, name)).dtype == np.float32
    }
    check(replace(made, **sane), numbers=False)
    return replace(made, notes=(*made.notes, "made anew")) if calls else made


def check(made: Any, *, numbers: bool = True) -> None:
    """Raise Broken where this is no sound data set; numbers: whether to look at all actions."""
    try:
        made.validate()
    except UserError as error:
        raise Broken(f"validate: {error}") from error
    for name in ("obs", "action", "reward", "action_low", "action_high"):
        if getattr(made, name).dtype != np.float32:
            raise Broken(f"{name} is of type {getattr(made, name).dtype}")
    if made.starts.dtype != np.int64 or made.terminated.dtype != np.bool_:
        raise Broken(f"starts {made.starts.dtype}, terminated {made.terminated.dtype}")
    for name in ("env_id", "name"):
        if not isinstance(getattr(made, name), str):
            raise Broken(f"{name} is {getattr(made, name)!r}")
    if not isinstance(made.env.kwargs, dict) or not all(
        isinstance(k, str) for k in made.env.kwargs
    ):
        raise Broken(f"env_kwargs are {made.env.kwargs!r}")
    json.dumps(made.env.kwargs)
    for name, values in (("notes", made.notes), ("obs_keys", made.env.obs_keys)):
        if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
            raise Broken(f"{name} are {values!r}")
    for note in made.notes:
        _check_line("note", note)
    low, high = made.action_low, made.action_high
    if numbers and ((made.action < low).any() or (made.action > high).any()):
        raise Broken("actions are out of their bounds")
    with np.errstate(all="ignore"):
        if not np.isfinite(made.returns).all():
            raise Broken("returns are not finite")


def _check_line(what: str, text: str) -> None:
    if len(text.splitlines()) != 1 or not text.isprintable() or len(text) > _LONGEST:
        raise Broken(f"{what} of {len(text)} letters is not one line: {text[:300]!r}")


def judge(base: str, folder: Path) -> tuple[str, str]:
    """Read a case; return the outcome (one of campaign.GOOD, or what failed) and its details."""
    noise: list[str] = []
    sys.unraisablehook = lambda given: noise.append(repr(given.exc_value))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome, details = _outcome(base, folder)
    ours = [text for w in warned if not _MEANT.search(text := str(w.message))]
    shutil.rmtree(folder, ignore_errors=True)
    if any(name.split(".")[0] == TRAP for name in sys.modules):
        return "import", "the file had a module of its choice imported"
    if outcome in campaign.GOOD and (ours or noise):
        return "noise", "; ".join([*ours, *noise])[:2000]
    return outcome, details


def _outcome(base: str, folder: Path) -> tuple[str, str]:
    try:
        made = read(base, folder)
        if not base.startswith("cache/"):
            check(made)
        notes = "; ".join(made.notes)
        return ("read" if notes == USUAL.get(base, notes) else "repaired"), notes
    except UserError as error:
        chain: BaseException | None = error
        while chain is not None:
            if isinstance(chain, MemoryError) or _NO_MEMORY.search(str(chain)):
                return "allocation", str(error)[:2000]
            chain = chain.__cause__ or chain.__context__
        try:
            _check_line("message", str(error))
        except Broken as broken:
            return "not one line", str(broken)
        return "refused", str(error)
    except Broken as error:
        return "broken data", str(error)[:2000]
    except MemoryError:
        return "memory", traceback.format_exc()[-2000:]
    except Exception:
        return "exception", traceback.format_exc()[-2000:]
