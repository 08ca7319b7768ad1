"""Bounds of actions: those of the space, or of the data where the space has none."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.worlds.spec import unlimited

Float32 = NDArray[np.float32]

NO_BOUNDS = "the environment's actions have no bounds: those of the data are used"
_FEW = 0.02  # of the width of the bounds
_ENOUGH = 100  # steps; of fewer, the range may be small by chance
ROWS = 1 << 16  # processed at a time, so that temporary arrays stay small beside the data


def bounds(
    action: Float32, low: ArrayLike | None, high: ArrayLike | None
) -> tuple[Float32, Float32]:
    """Return the bounds (A,) given, infinite ones replaced by the range of the actions (N, A).

    None stands for -1 and 1. An unbounded action that never changes gets bounds 1 away from it.
    """
    size = action.shape[1]
    lower = np.full(size, -1.0) if low is None else np.array(low, np.float64)
    upper = np.full(size, 1.0) if high is None else np.array(high, np.float64)
    if lower.shape == upper.shape == (size,):
        open_low, open_high = unlimited(lower) & (lower < 0), unlimited(upper) & (upper > 0)
        if (open_low | open_high).any() and len(action):
            least, most = _range(action)
            lower = np.where(open_low, np.minimum(least, upper), lower)
            upper = np.where(open_high, np.maximum(most, lower), upper)
        flat = lower == upper
        lower, upper = lower - (flat & open_low), upper + (flat & open_high)
    with np.errstate(over="ignore"):
        return lower.astype(np.float32), upper.astype(np.float32)


def narrowed(action: Float32, low: Float32, high: Float32) -> tuple[Float32, Float32, list[str]]:
    """Return the bounds, those of the data where it uses little of them, and a note on these.

    Errors are measured in units of the bounds: with much wider ones they would hardly count.
    """
    if not len(action):
        return low, high, []
    least, most = _range(action)
    wide = high.astype(np.float64) - low
    few = np.flatnonzero((most > least) & (most - least < _FEW * wide))
    if not len(few) or len(action) < _ENOUGH:
        return low, high, []
    low, high = low.copy(), high.copy()
    low[few], high[few] = least[few], most[few]
    some = ", ".join(map(str, few[:12])) + (", ..." if len(few) > 12 else "")
    share = f"{100 * _FEW:g} %"
    return low, high, [f"actions {some} use less than {share} of their bounds: the data's are used"]


def _range(action: Float32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    blocks = [action[row : row + ROWS] for row in range(0, len(action), ROWS)]
    least = np.min([block.min(axis=0) for block in blocks], axis=0)
    most = np.max([block.max(axis=0) for block in blocks], axis=0)
    return least.astype(np.float64), most.astype(np.float64)
