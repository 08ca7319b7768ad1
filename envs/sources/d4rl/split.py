"""Find where the episodes of D4RL's flat layout end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data.jumps import Changes

Flags = NDArray[np.bool_]
_FEW = 0.1  # of the steps of runs at a goal may look like resets


@dataclass(frozen=True)
class Episodes:
    """Episodes that lie end to end, beginning at the first row."""

    lengths: NDArray[np.int64]
    """(E,)"""
    terminated: Flags
    """(E,)"""
    notes: tuple[str, ...]


def split(
    terminal: Flags, timeout: Flags | None, limit: int | None, breaks: Callable[[], Flags | None]
) -> Episodes:
    """Split N steps into episodes, which end at terminals and timeouts, as in d4rl.

    terminal, timeout: (N,). If there are no timeouts, or none is true, episodes also end after
    `limit` steps, and where `breaks()` (N,), called only then, is True.
    A last episode without an end is left out, unless it is the only one or as long as `limit`.
    """
    steps, notes = len(terminal), list[str]()
    over = terminal if timeout is None else terminal | timeout
    if timeout is None or not timeout.any():
        over, found = _without_timeouts(terminal, limit, breaks())
        if timeout is None or over.sum() > terminal.sum():
            what = "are missing" if timeout is None else "are all false"
            notes.append(f"timeouts {what}: episodes end {found}")
    ends = np.flatnonzero(over) + 1
    tail = steps - int(ends[-1]) if len(ends) else steps
    if tail and (not len(ends) or (limit is not None and tail >= limit)):
        ends = np.append(ends, steps)
    elif tail:
        notes.append(f"the last {tail} of {steps} steps have no end: left out")
    return Episodes(np.diff(ends, prepend=0), terminal[ends - 1], tuple(notes))


def _without_timeouts(
    terminal: Flags, limit: int | None, breaks: Flags | None
) -> tuple[Flags, str]:
    counts = [f"at {int(terminal.sum())} terminals"]
    over = terminal
    if breaks is not None:
        over = terminal | breaks
        counts.append(
            f"at {int(over.sum() - terminal.sum())} steps whose next observation is another's"
        )
    if limit is not None:
        late = at_limit(over, limit) & ~over
        over = over | late
        counts.append(f"{int(late.sum())} after the time limit of {limit} steps")
    return over, ", ".join(counts)


def at_limit(over: Flags, limit: int) -> Flags:
    """Return (N,) True at every `limit`-th step after an end in `over`."""
    starts = np.concatenate(([0], np.flatnonzero(over) + 1))
    lengths = np.diff(starts, append=len(over))
    place = np.arange(1, len(over) + 1)
    place -= np.repeat(starts, lengths)
    return place % limit == 0


def goal_runs(episodes: Episodes) -> Flags:
    """Return which episodes (E,) are one terminal step directly after another terminal step.

    antmaze marks every step at the goal as terminal: an ant that stays there makes many of them.
    """
    ended = episodes.terminated
    return ended & (episodes.lengths == 1) & np.concatenate(([False], ended[:-1]))


def go_on(runs: Flags, episodes: Episodes, obs: NDArray[np.float32], breaks: Flags | None) -> bool:
    """Return whether the runs (E,) of `goal_runs` go on from the steps before them, without resets.

    breaks: (N,) where the next observation is not the next row's, as for `split`. Without it, the
    observations (N, O) tell: they have to be smooth, and change in the runs as within episodes.
    """
    starts = np.concatenate(([0], np.cumsum(episodes.lengths)))
    before = starts[:-1][runs] - 1
    if breaks is not None:
        return bool(breaks[before].mean() < _FEW)
    changes = Changes(obs, starts)
    return changes.smooth() and bool((~changes.usual_after(before)).mean() < _FEW)


def same_rows(here: NDArray[Any], there: NDArray[Any]) -> Flags:
    """Return (N,) whether rows (N, O) are equal to 1e-5 of the ranges, in any unit."""
    if not len(there):
        return np.zeros(0, np.bool_)
    kinds = [x.dtype if x.dtype.kind == "f" else np.dtype(np.float64) for x in (here, there)]
    rounding = 4 * max(float(np.finfo(kind).eps) for kind in kinds)
    with np.errstate(invalid="ignore", over="ignore"):
        known = np.where(np.isfinite(there), there, np.nan)
        spread = np.fmax.reduce(known) - np.fmin.reduce(known)
        off = np.abs(here - there) > 1e-5 * spread + rounding * np.abs(there)
    return np.asarray(~(off | (np.isnan(here) != np.isnan(there))).any(axis=1))
