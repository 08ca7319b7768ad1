"""Read a saved configuration back, and hold a resumed run to it."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from configs.base import Config, to_dict

FILE = "config.json"
LARGEST_NUMBER = 1e300
"""Of a configuration: what is larger overflows sooner or later."""
LARGEST = 1_000_000
"""Bytes; a real one has three thousand."""
FREE = ("resume", "run_dir", "device", "threads", "checkpoint.", "data.cache", "data.download")
"""What a resumed run may have otherwise, for it changes at most the rounding of what is learnt."""


def read(folder: Path) -> Config:
    """Return the configuration of the run in `folder`, which is made its run_dir.

    Raises ValueError where there is none, or where a value is not of its type.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"no run in {folder}: give the folder of a run that train.py began")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError("too large")
        return dataclasses.replace(_typed(json.loads(text), Config, "it"), run_dir=folder)
    except (ValueError, RecursionError, OSError) as error:
        # Keys of the file are in it, for a terminal that is to print them and no more.
        what = "".join(c if c.isprintable() else "?" for c in str(error)[:500])
        raise ValueError(f"{path} is damaged ({what}): put back a copy, or train again") from None


def settings(config: Config) -> dict[str, Any]:
    """Return what changes the results, as in data.length: its value."""
    values = flat(to_dict(config), whole=("cell",))
    return {name: value for name, value in values.items() if not name.startswith(FREE)}


def flat(
    values: Mapping[str, Any], *, whole: Collection[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Return the values of nested objects by dotted names; those called as in `whole` stay.

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
    """Return the options, as --data.length, in which `config` is not the run that was saved."""
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


def _typed(value: Any, kind: Any, name: str) -> Any:
    """Return a value of JSON as the type that its annotation says; ValueError where it is not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"this minrnn knows no {min(unknown)}")
        return typing.cast(Any, kind)(
            **{key: _typed(v, hints[key], key) for key, v in value.items()}
        )
    if origin in (typing.Union, types.UnionType):
        for one in arguments:
            try:
                return _typed(value, one, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_typed(item, arguments[0], name) for item in value)
    elif origin is dict and isinstance(value, dict):
        return {key: _typed(item, arguments[1], name) for key, item in value.items()}
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind is float:
        if type(value) in (int, float) and abs(value) < LARGEST_NUMBER:
            return value
    elif type(value) is kind:
        return value
    raise ValueError(f"{name} cannot be {value!r:.50}")
