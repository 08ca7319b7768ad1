"""Read a saved configuration back, and compare a resumed run with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from configs.options import Config, to_dict
from configs.schema import typed

FILE = "config.json"
_WHOLE = ("cell", "objective_options", "env_kwargs", "reset_options")
LARGEST_FILE = 1_000_000
"""Bytes of a configuration; a real one has three thousand."""
FREE = (
    "resume",
    "run_dir",
    "device",
    "threads",
    "log",
    "checkpoint.",
    "data.cache",
    "data.download",
)
"""Options that may change in a resumed run: the weights differ by rounding at most."""


def read(folder: Path) -> Config:
    """Return the configuration of the run in `folder`, which is made its run_dir.

    Raises ValueError where there is none, or where a value is not of its type.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"no run in {folder}: give the folder of a run that train.py began")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ValueError("too large")
        return dataclasses.replace(typed(json.loads(text), Config, FILE), run_dir=folder)
    except (ValueError, RecursionError, OSError) as error:
        # The error quotes keys of the file, which a terminal should print and not obey.
        what = "".join(c if c.isprintable() else "?" for c in str(error)[:500])
        raise ValueError(f"{path} is damaged ({what}): put back a copy, or train again") from None


def settings(config: Config) -> dict[str, Any]:
    """Return the options that change the results and their values, by names such as data.length."""
    values = flat(to_dict(config), whole=_WHOLE)
    return {name: value for name, value in values.items() if not name.startswith(FREE)}


def flat(
    values: Mapping[str, Any], *, whole: Collection[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Return the values of nested objects by dotted names. Objects whose key is in `whole` stay.

    Example:
        >>> flat({"model": {"dim": 8, "cell": {"window": 4}}}, whole=("cell",))
        {'model.dim': 8, 'model.cell': {'window': 4}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in whole:
            found |= flat(value, whole=whole, prefix=f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def changed(config: Config, saved: Config) -> list[str]:
    """Return the options, such as --data.length, in which `config` differs from the saved run's."""
    ours, theirs = settings(config), settings(saved)
    return [f"--{name.replace('_', '-')}" for name in ours if ours[name] != theirs[name]]


def other_flags(config: Config, saved: Config) -> list[str]:
    """Return the flags by which a resumed run differs from the one that was saved.

    Example:
        >>> begun = Config()
        >>> other_flags(dataclasses.replace(begun, threads=2), begun)
        ['--threads', '2']
    """
    ours, theirs = flat(to_dict(config)), flat(to_dict(saved))
    flags: list[str] = []
    for name, value in ours.items():
        kept = not name.startswith(FREE) or name.startswith(("resume", "run_dir"))
        if kept or value == theirs[name]:
            continue
        *groups, field = name.replace("_", "-").split(".")
        no = "no-" * (value is False)
        flags.append(f"--{'.'.join([*groups, no + field])}")
        flags += [] if isinstance(value, bool) else [str(value)]
    return flags
