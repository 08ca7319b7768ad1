"""Sources of data sets: `load` turns an id or a path into Trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.data.combine import combine
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.sources import d4rl, file, local, minari
from envs.sources.compare import check_env
from envs.sources.names import closest
from envs.sources.source import Options, Source

__all__ = ["check_env", "load", "near_matches"]

SOURCES: tuple[Source, ...] = (local.SOURCE, file.SOURCE, minari.SOURCE, d4rl.SOURCE)
"""A name goes to the first of them that knows it."""


def load(
    name: str,
    *,
    env_id: str | None = None,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    download: bool = True,
    cache: bool = True,
    progress: bool = True,
    evaluate: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    reset_options: Mapping[str, Any] | None = None,
    obs_keys: Sequence[str] = (),
) -> Trajectories:
    """Load a data set, or several, separated by commas.

    name: one of the project's own, a Minari id, a name of D4RL's, or the path of an HDF5 file in
    D4RL's layout, whose environment is `env_id`. What is not on the disk is rolled out or
    downloaded; with download=False, a download is an error.
    weights: the share of training steps that each of several data sets gets; by default every
    step counts the same.
    seed: of the rollouts of the project's own data sets; others do not depend on it.
    cache: whether to keep a copy of large sets, which later starts map into memory.
    evaluate: whether an environment is needed: a file without one is refused before it is read.
    env_kwargs: arguments of the environment, before those that the data set names.
    reset_options: the `options` of every reset. obs_keys: see EnvSpec; all of them are fit for
    JSON.
    Raises UserError for an unknown id (with near matches) and for data that cannot be used.
    """
    options = Options(
        *(env_id, seed, download, cache, progress, evaluate),
        *(env_kwargs or {}, reset_options or {}, tuple(obs_keys)),
    )
    names = [name] if file.exists(name) else [part.strip() for part in name.split(",")]
    if not all(names):
        raise UserError(f"{name!r} names an empty data set; separate names by single commas")
    if env_id is not None and not any(file.is_file(each) for each in names):
        raise UserError(f"--data.env-id is for files; {name} has an environment of its own")
    return combine([_load(each, options) for each in names], weights)


def _load(name: str, options: Options) -> Trajectories:
    for source in SOURCES:
        if source.knows(name):
            found = source.load(name, options)
            return replace(found, env=options.env(found.env))
    near, folder = near_matches(name), file.exists(name, Path.is_dir)
    if folder and (file.is_path(name) or not near):
        raise UserError(f"{name} is a folder; name a file in it, or the id of a data set")
    if file.is_path(name):
        raise UserError(f"{name} does not exist; check the path")
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"name {', '.join(source.title for source in SOURCES)}; see `python train.py --help`"
    raise UserError(f"{name} is not a data set on this disk ({minari.root()}); {hint}")


def near_matches(name: str, count: int = 3) -> list[str]:
    """Return the known ids most like this name, best first."""
    return closest(name, {each for source in SOURCES for each in source.names()}, count)
