"""Offsets of observations: what float32 cannot hold beside a large constant is kept without it.

A position of 1e7 m, or a time in seconds since 1970, is rounded to metres and minutes in float32.
Where less than ten bits of a dimension's range would be left, its first value in the data is taken
off in float64 before it is stored in float32. The same is taken off while acting.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data.bounds import ROWS, Float32

Float64 = NDArray[np.float64]

_LARGE = 1e6  # a reward or an action of this size is hardly meant
_BITS = 2.0**-14  # of the largest number: a range below it has ten bits in float32
_RESOLUTION = 1e-11  # of the offset: a range below it is rounding of float64, as in a constant


def poor(obs: Float32) -> NDArray[np.bool_] | None:
    """Return the dimensions (O,) of obs (N, O) that are poorly resolved, constants included.

    None where there are none.
    """
    low, high = _range(obs)
    size = np.maximum(np.abs(low), np.abs(high))
    found = (size > 0) & (high - low <= _BITS * size)
    return found if found.any() else None


def lost(name: str, values: Float32) -> list[str]:
    """Return a note where float32 cannot tell values (N, ·) apart beside a large constant."""
    where = poor(values)
    if where is None or not (found := where & (np.abs(values[0]) > _LARGE)).any():
        return []
    return [
        f"{name} are {values[0, found.argmax()]:.10g} to within float32: what varies beside such a "
        f"constant is lost, take it off in the source"
    ]


def first_finite(values: NDArray[Any]) -> Float64:
    """Return the first finite number of each column of (N, O), N >= 1; NaN where there is none."""
    finite = np.isfinite(values)
    first = values[finite.argmax(axis=0), np.arange(values.shape[1])].astype(np.float64)
    return np.where(finite.any(axis=0), first, np.nan)


def taken(
    obs: Float32, final_obs: Float32 | None, offset: Float64, with_it: Float32 | None
) -> Float64 | None:
    """Return the offset (O,) of the dimensions that vary, None where none does.

    obs (N, O) and final_obs (E, O) are without `offset`; the constants among them get it back,
    those of final_obs from `with_it`, which has it.
    """
    low, high = _range(obs)
    constant = (offset != 0) & ~(high - low > _RESOLUTION * np.abs(offset))
    for column in np.flatnonzero(constant):
        obs[:, column] = (offset[column] + obs[:, column]).astype(np.float32)
        if final_obs is not None and with_it is not None:
            final_obs[:, column] = with_it[:, column]
    offset = np.where(constant, 0.0, offset)
    return offset if offset.any() else None


def _range(obs: Float32) -> tuple[Float64, Float64]:
    low, high = (np.full(obs.shape[1], end) for end in (np.inf, -np.inf))
    for row in range(0, len(obs), ROWS):
        block = obs[row : row + ROWS]
        least, most = block.min(axis=0), block.max(axis=0)
        if not (np.isfinite(least).all() and np.isfinite(most).all()):  # such steps are left out
            block = np.where(np.isfinite(block), block, np.nan)
            least, most = np.fmin.reduce(block), np.fmax.reduce(block)
        low, high = np.fmin(low, least), np.fmax(high, most)
    return low, high
