"""Repairs of data as it is loaded, in place, on blocks of rows; docs/data.md has the policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.data.bounds import ROWS, Float32
from envs.errors import UserError

ROUNDING = 1e-6  # actions out of bounds by less, relative to the bounds, are not reported


def find_broken(
    name: str, arrays: dict[str, Float32], starts: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which episodes (E,) must be left out, as they have NaN or infinity, and the notes.

    arrays: name -> (N,) or (N, ·), in which numbers that overflow float32 have become infinity.
    Raises UserError where more than half of the episodes have defects.
    """
    broken = np.zeros(len(starts) - 1, np.bool_)
    first, where = len(starts), ""
    for label, values in arrays.items():
        for row in range(0, len(values), ROWS):
            finite = np.isfinite(values[row : row + ROWS])
            if finite.all():
                continue
            rows = row + np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))
            found = np.searchsorted(starts, rows, side="right") - 1
            broken[found] = True
            if found[0] < first:
                first = int(found[0])
                where = f"episode {first} in {label} at step {rows[0] - starts[first]}"
    count, total = int(broken.sum()), len(broken)
    if 2 * count > total:
        raise UserError(
            f"{name}: {count} of {total} episodes have NaN or infinity (the first is {where}); "
            f"remove them from the data set or choose another"
        )
    note = f"{count} of {total} episodes with NaN or infinity left out (the first: {where})"
    return broken, [note] if count else []


def drop_episodes(
    arrays: dict[str, Float32], starts: NDArray[np.int64], dropped: NDArray[np.bool_]
) -> tuple[dict[str, Float32], NDArray[np.int64]]:
    """Move the other episodes together, in place; return the shorter arrays and the new starts.

    arrays: name -> (N,) or (N, ·), and perhaps "final_obs" -> (E, O).
    """
    kept = np.flatnonzero(~dropped)
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)  # neighbours move together
    moved: dict[str, Float32] = {}
    for label, values in arrays.items():
        offsets, target = np.arange(len(starts)) if label == "final_obs" else starts, 0
        for run in runs:
            source, end = int(offsets[run[0]]), int(offsets[run[-1] + 1])
            for row in range(source, end if source != target else source, ROWS):
                rows = slice(row, min(row + ROWS, end))
                values[rows.start - source + target : rows.stop - source + target] = values[rows]
            target += end - source
        moved[label] = values[:target]
    return moved, np.concatenate(([0], np.cumsum(np.diff(starts)[kept])))


def clip_actions(action: Float32, low: Float32, high: Float32) -> list[str]:
    """Clip actions (N, A) to their bounds in place, as MuJoCo does; return the notes."""
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
    """Return terminations (E,) without those at the time limit, and the notes.

    Many recorders store `done`, which is also true at the time limit.
    """
    late = terminated & (lengths >= horizon) if horizon else np.zeros_like(terminated)
    count = int(late.sum())
    if not count:
        return terminated, []
    return terminated & ~late, [
        f"{count} of {len(lengths)} episodes end at the time limit of {horizon} steps and are "
        f"marked as terminated: taken for the time limit"
    ]
