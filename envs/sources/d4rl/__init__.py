"""D4RL's data sets by name, and other files in D4RL's layout, read without the package d4rl."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from envs.data.bounds import NO_BOUNDS, Float32
from envs.data.cache import cached
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.files import home
from envs.sources.d4rl.layout import check, read
from envs.sources.d4rl.table import ENTRIES, Layout
from envs.sources.download.http import fetch
from envs.sources.hdf5 import check_signature
from envs.sources.source import Options, Source
from envs.worlds.make import action_bounds, time_limit
from envs.worlds.spec import EnvSpec, unlimited

_NAMELESS = (
    "--data.env-id does not say which environment it is of: actions have the bounds of the data, "
    "and no time limit is known"
)


def root() -> Path:
    """Return the folder that d4rl downloads to, also used here."""
    named = os.environ.get("D4RL_DATASET_DIR")
    return Path(named or home("D4RL_DATASET_DIR") / ".d4rl" / "datasets")


def file_of(name: str) -> Path:
    """Return the path of a D4RL data set, downloaded or not."""
    return root() / ENTRIES[name].url.rsplit("/", 1)[1]


def load(name: str, *, progress: bool = True, cache: bool = True) -> Trajectories:
    """Read a D4RL data set by its name; download it if need be; UserError where that fails."""
    entry = ENTRIES[name]
    path = file_of(name)
    if not path.is_file():
        fetch(entry.url, path, check=lambda got: check(got, entry), progress=progress)
    return _cached(path, entry, None, cache)


def read_file(
    path: Path, *, name: str, env: EnvSpec | str | None, cache: bool = True
) -> Trajectories:
    """Read a file in D4RL's layout.

    It has observations (N, O), actions (N, A), rewards (N,) or (N, 1) and terminals (N,), and may
    have timeouts (N,) and next_observations (N, O). The environment gives the bounds of actions and
    the time limit; where it has no bounds, and without an environment, the data gives the bounds,
    and a note says so.
    Raises UserError where the file cannot be used.
    """
    if not env:
        layout = Layout(name=name, limit=None, open_bounds=True, remark=_NAMELESS)
        return _cached(path, layout, None, cache)
    spec = EnvSpec.of(env)
    low_high, limit = action_bounds(spec, finite=False), time_limit(spec)
    remark = NO_BOUNDS if unlimited(low_high).any() else ""
    layout = Layout(name=name, env=spec, limit=limit, horizon=limit, remark=remark)
    return _cached(path, layout, low_high, cache)


def _cached(
    path: Path, layout: Layout, low_high: tuple[Float32, Float32] | None, enabled: bool
) -> Trajectories:
    check_signature(path)
    bounds = None if low_high is None else [values.tolist() for values in low_high]
    options = {"layout": asdict(layout), "bounds": bounds}
    return cached([path], options, lambda: read(path, layout, low_high), enabled=enabled)


def _load(name: str, options: Options) -> Trajectories:
    if options.obs_keys:
        raise UserError(f"--data.obs-keys is for observations of many parts; {name} has none")
    options.check_download(name, file_of(name))
    return load(name, progress=options.progress, cache=options.cache)


SOURCE = Source(
    f"D4RL's {', '.join(sorted({each.split('-', 1)[0] for each in ENTRIES}))} (and -...)",
    ENTRIES.__contains__,
    _load,
    lambda: ENTRIES,
)
