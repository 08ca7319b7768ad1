"""Check values of JSON, which may be damaged or malicious, against type annotations."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

LARGEST_NUMBER = 1e30
"""Of a float. Larger ones soon overflow: float32 ends at 3e38."""
LARGEST_INT = 2**64
"""Of an int. PyTorch takes no larger seeds, and counts and sizes are far below."""


def typed(value: Any, kind: Any, name: str) -> Any:
    """Return a value of JSON as the type that an annotation says.

    `kind` may also be a mapping of keys to kinds: an object that has these keys and no others.
    Dataclasses may lack keys. `name` is what messages call the value. Raises ValueError where the
    value is not of that type, and where a number is infinite, not a number or too large.

    Example:
        >>> typed([1, 2.5], tuple[float, ...], "targets"), typed({"a": 1}, {"a": int | None}, "x")
        ((1, 2.5), {'a': 1})
        >>> typed(True, int, "update")
        Traceback (most recent call last):
        ValueError: update cannot be True
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, Mapping) or dataclasses.is_dataclass(kind):
        return _object(value, kind, name)
    if origin in (typing.Union, types.UnionType):
        for one in arguments:
            try:
                return typed(value, one, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(typed(*pair, name) for pair in zip(value, kinds, strict=True))
    elif origin is list and isinstance(value, list):
        return [typed(item, arguments[0], name) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {key: typed(item, arguments[1], key) for key, item in value.items()}
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind is float:
        if type(value) in (int, float) and abs(value) < LARGEST_NUMBER:  # not where it is NaN
            return value
    elif type(value) is kind and (kind is not int or abs(value) < LARGEST_INT):
        return value
    raise ValueError(f"{name} cannot be {value!r:.50}")


def _object(value: Any, kind: Any, name: str) -> Any:
    exact = isinstance(kind, Mapping)
    kinds: Mapping[str, Any] = kind if exact else typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise ValueError(f"{name} cannot be {value!r:.50}")
    if unknown := value.keys() - kinds.keys():
        raise ValueError(f"{name} has no option {min(unknown)!r}")
    if exact and (missing := kinds.keys() - value.keys()):
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")
    found = {key: typed(item, kinds[key], key) for key, item in value.items()}
    return found if exact else kind(**found)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type: whether `typed` takes it.

    Example:
        >>> fits(1, float), fits(True, int), fits(float("inf"), float), fits(None, float | None)
        (True, False, False, True)
    """
    try:
        typed(value, kind, "")
    except ValueError:
        return False
    return True
