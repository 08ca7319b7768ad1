"""Reader of the spaces in a Minari data set's metadata, which limits their sizes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from gymnasium import spaces

_MAX_SIZE = 10_000_000  # numbers in one observation


class _Room:
    """Counts the numbers of all parts of a space against a limit."""

    def __init__(self) -> None:
        self._left = _MAX_SIZE

    def shape(self, given: Any, name: str, least: int = 0) -> tuple[int, ...]:
        """Return a shape; ValueError where it exceeds the limit, or a side is below the least."""
        shape = tuple(int(size) for size in given)
        if any(size < least for size in shape):
            raise ValueError(f"{name} has the shape {list(shape)}")
        self._left -= math.prod(shape)
        if self._left < 0:
            raise ValueError(f"{name} makes more than {_MAX_SIZE:,} numbers")
        return shape

    def size(self, given: Any, name: str) -> int:
        """Return a size of 1 or more; ValueError where it exceeds the limit."""
        return self.shape([given], name, 1)[0]


def read_space(text: str | None, name: str) -> spaces.Space[Any]:
    """Return the space that JSON describes; ValueError or TypeError where it describes none."""
    if not text:
        raise ValueError(f"the metadata has no {name}")
    return _space(json.loads(text), name, _Room())


def _space(found: Any, name: str, room: _Room) -> spaces.Space[Any]:
    if not isinstance(found, dict) or "type" not in found:
        raise ValueError(f"{name} holds no space")
    kind = found["type"]
    if kind == "Box":
        return _box(found, name, room)
    if kind == "Dict":
        parts = found["subspaces"].items()
        return spaces.Dict({str(key): _space(part, f"{name}/{key}", room) for key, part in parts})
    if kind == "Tuple":
        parts = enumerate(found["subspaces"])
        return spaces.Tuple([_space(part, f"{name}/{i}", room) for i, part in parts])
    if kind == "Discrete":
        return spaces.Discrete(room.size(found["n"], name), start=int(found.get("start", 0)))
    if kind == "MultiBinary":
        n = found["n"]
        return spaces.MultiBinary(
            room.shape(n, name) if isinstance(n, list) else room.size(n, name)
        )
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(found["nvec"], np.int64))
    if kind == "Text":
        return spaces.Text(room.size(found["max_length"], name))
    raise ValueError(f"{name} is a space of the unknown kind {kind}")


def _box(found: dict[str, Any], name: str, room: _Room) -> spaces.Box:
    shape = room.shape(found["shape"], name)
    dtype = np.dtype(found["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {dtype}")
    sides = [np.asarray(found[side], np.float64) for side in ("low", "high")]
    if any(side.shape not in (shape, ()) for side in sides):
        raise ValueError(
            f"{name} has bounds of shapes {sides[0].shape} and {sides[1].shape} for shape {shape}"
        )
    if dtype == np.uint8:  # uint8 marks images
        return spaces.Box(0, 255, shape, np.uint8)
    # gymnasium would refuse bounds that do not fit their own type; envs.data.bounds repairs them.
    box = spaces.Box(-np.inf, np.inf, shape, np.float64)
    box.low, box.high = (np.broadcast_to(side, shape) for side in sides)
    return box
