"""Repairs of data as it is loaded. Each says what it did in one line; docs/data.md has the policy.

All of them work in place and on pieces of rows: they take no memory of the data's size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.data.bounds import ROWS, Float32
from envs.errors import UserError

ROUNDING = 1e-6
"""An action that is out of bounds by less than this, relative to the bounds, is not counted."""


def broken_episodes(
    arrays: dict[str, Float32], starts: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], str]:
    """Find the episodes (E,) that hold NaN or infinity, and describe the first in words.

    arrays: name -> (N,) or (N, ·). What overflows float32 has become infinity there.
    """
    broken = np.zeros(len(starts) - 1, np.bool_)
    first, where = len(starts), ""
    for label, values in arrays.items():
        for row in range(0, len(values), ROWS):
            part = np.isfinite(values[row : row + ROWS])
            if part.all():
                continue
            rows = row + np.flatnonzero(~part.reshape(len(part), -1).all(axis=1))
            found = np.searchsorted(starts, rows, side="right") - 1
            broken[found] = True
            if found[0] < first:
                first = int(found[0])
                where = f"episode {first} in {label} at step {rows[0] - starts[first]}"
    return broken, where


def drop_episodes(
    arrays: dict[str, Float32], starts: NDArray[np.int64], dropped: NDArray[np.bool_]
) -> tuple[dict[str, Float32], NDArray[np.int64]]:
    """Move the other episodes together; return the arrays' first rows and the new starts."""
    kept = np.flatnonzero(~dropped)
    lengths = np.diff(starts)[kept]
    moved = np.concatenate(([0], np.cumsum(lengths)))
    # Episodes that lie together move together.
    runs = np.split(np.arange(len(kept)), np.flatnonzero(np.diff(kept) > 1) + 1)
    for run in runs:
        source, target = int(starts[kept[run[0]]]), int(moved[run[0]])
        steps = int(moved[run[-1] + 1]) - target
        if source == target:
            continue
        for row in range(0, steps, ROWS):
            size = min(ROWS, steps - row)
            for values in arrays.values():
                values[target + row : target + row + size] = values[
                    source + row : source + row + size
                ]
    return {label: values[: moved[-1]] for label, values in arrays.items()}, moved


def leave_out_broken(
    name: str, arrays: dict[str, Float32], starts: NDArray[np.int64]
) -> tuple[dict[str, Float32], NDArray[np.int64], NDArray[np.bool_], list[str]]:
    """Leave out episodes with NaN or infinity: their return is not known, nor what they teach.

    Returns the arrays, the starts, which episodes were kept (E,), and notes.
    Raises UserError where that is more than half of the episodes.
    """
    broken, where = broken_episodes(arrays, starts)
    count, total = int(broken.sum()), len(broken)
    if not count:
        return arrays, starts, ~broken, []
    if 2 * count > total:
        raise UserError(
            f"{name}: {count} of {total} episodes have NaN or infinity (the first is {where}); "
            f"remove them from the data set or choose another"
        )
    arrays, starts = drop_episodes(arrays, starts, broken)
    note = f"{count} of {total} episodes with NaN or infinity left out (the first: {where})"
    return arrays, starts, ~broken, [note]


def clip_actions(action: Float32, low: Float32, high: Float32) -> list[str]:
    """Clip actions (N, A) to what the environment takes, as MuJoCo does to what it is given.

    Human demonstrations hold values beyond the bounds, which no agent could produce.
    """
    slack = ROUNDING * np.maximum(np.abs(low), np.abs(high))
    count, furthest = 0, 0.0
    for row in range(0, len(action), ROWS):
        part = action[row : row + ROWS]
        if (part.min(axis=0) >= low).all() and (part.max(axis=0) <= high).all():
            continue
        excess = np.maximum(low - part, part - high)
        count += int((excess > slack).any(axis=1).sum())
        furthest = max(furthest, float(excess.max()))
        np.clip(part, low, high, out=part)
    if not count:
        return []
    share = 100.0 * count / len(action)
    return [
        f"actions of {count} steps ({share:.3g} %) clipped to their bounds, by up to {furthest:.3g}"
    ]


def end_at_time_limit(
    terminated: NDArray[np.bool_], lengths: NDArray[np.int64], horizon: int | None
) -> tuple[NDArray[np.bool_], list[str]]:
    """Take a termination (E,) at the time limit for the time limit: many recorders store `done`."""
    late = terminated & (lengths >= horizon) if horizon else np.zeros_like(terminated)
    count = int(late.sum())
    if not count:
        return terminated, []
    return terminated & ~late, [
        f"{count} of {len(lengths)} episodes end at the time limit of {horizon} steps and are "
        f"marked as terminated: taken for the time limit"
    ]
