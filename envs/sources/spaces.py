"""The spaces in a Minari data set's metadata, as gymnasium's.

Minari's own reader believes the sizes that it finds; here they are bounded.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from gymnasium import spaces

_MAX_SIZE = 10_000_000  # numbers in one observation


def read_space(text: str | None, name: str) -> spaces.Space[Any]:
    """Return the space that JSON describes. Raises ValueError or TypeError where it is no space."""
    if not text:
        raise ValueError(f"the metadata has no {name}")
    return _space(json.loads(text), name)


def _space(found: Any, name: str) -> spaces.Space[Any]:
    if not isinstance(found, dict) or "type" not in found:
        raise ValueError(f"{name} holds no space")
    kind = found["type"]
    if kind == "Box":
        return _box(found, name)
    if kind == "Dict":
        parts = found["subspaces"].items()
        return spaces.Dict({str(key): _space(part, f"{name}/{key}") for key, part in parts})
    if kind == "Tuple":
        parts = enumerate(found["subspaces"])
        return spaces.Tuple([_space(part, f"{name}/{i}") for i, part in parts])
    if kind == "Discrete":
        return spaces.Discrete(_size(found["n"], name), start=int(found.get("start", 0)))
    if kind == "MultiBinary":
        n = found["n"]
        return spaces.MultiBinary(_shape(n, name) if isinstance(n, list) else _size(n, name))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(found["nvec"], np.int64))
    if kind == "Text":
        return spaces.Text(_size(found["max_length"], name))
    raise ValueError(f"{name} is a space of the unknown kind {kind}")


def _box(found: dict[str, Any], name: str) -> spaces.Box:
    shape = _shape(found["shape"], name)
    dtype = np.dtype(found["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {dtype}")
    sides = [np.asarray(found[side], np.float64) for side in ("low", "high")]
    if any(side.shape not in (shape, ()) for side in sides):
        raise ValueError(
            f"{name} has bounds of shapes {sides[0].shape} and {sides[1].shape} for shape {shape}"
        )
    if dtype == np.uint8:  # how images are told from vectors
        return spaces.Box(0, 255, shape, np.uint8)
    # Bounds that do not fit their own type are the data's to judge, not gymnasium's.
    box = spaces.Box(-np.inf, np.inf, shape, np.float64)
    box.low, box.high = (np.broadcast_to(side, shape) for side in sides)
    return box


def _shape(given: Any, name: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in given)
    if any(size < 0 for size in shape) or math.prod(shape) > _MAX_SIZE:
        raise ValueError(f"{name} has the shape {list(shape)}")
    return shape


def _size(given: Any, name: str) -> int:
    size = int(given)
    if not 0 < size <= _MAX_SIZE:
        raise ValueError(f"{name} has the size {size}")
    return size
