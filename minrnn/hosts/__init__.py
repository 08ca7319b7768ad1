"""Adapters that plug a `Stack` into other libraries, one module each; see docs/plugging-in.md.

`minrnn` itself imports none of them, and each imports only the library that it is named after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from minrnn.registry import hint
from minrnn.stack import StackConfig


@contextmanager
def needs(extra: str) -> Generator[None]:
    """Turn a failed import of a host into an ImportError that says how to install it.

    >>> with needs("sb3"):
    ...     import torch
    """
    try:
        yield
    except ImportError as error:
        line = f'pip install "minrnn[{extra}]"'
        raise ImportError(f"minrnn.hosts.{extra} needs its host: {line} ({error})") from error


def stack_config(options: StackConfig | Mapping[str, Any] | None) -> StackConfig:
    """Return the options as a `StackConfig`; hosts that store options as JSON pass a mapping.

    Raises ValueError for an unknown field, TypeError for anything but the two.

    >>> stack_config({"dim": 32, "backbone": "minlstm"}).dim
    32
    """
    if isinstance(options, StackConfig):
        return options
    there = tuple(field.name for field in dataclasses.fields(StackConfig))
    try:
        given = dict(options or {})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"options of a stack are a StackConfig or a mapping, not a {type(options).__name__}: "
            'StackConfig(dim=64, backbone="mingru"), for one'
        ) from error
    for name in given:
        if name not in there:
            raise ValueError(f"StackConfig has no field {name!r}{hint(name, there)}")
    return StackConfig(**given)
