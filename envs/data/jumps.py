"""Find steps within episodes at which observations jump, as from one episode to the next."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from envs.data.bounds import ROWS, Float32

_SAMPLE = 20_000  # rows from which the usual changes are estimated
_LEAST = 50  # changes; of fewer, nothing can be said
_USUAL = 3.0  # times the usual change: nearly all are smaller
_UNUSUAL = 6.0  # times the usual change: few are larger
_GAP = 4.0  # between the largest change of all others and a jump; those of collisions have no gap
_SHARE = 0.3  # of the ends of episodes that are marked in a wrong row

Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Changes:
    """The changes of observations (N, O) from each row to the next, in units of the usual ones.

    The usual change (O,) is the 98 % quantile within episodes. Numbers that mostly stay as they are
    (goals, one-hot parts, contacts) have an infinite one, as they may change by any amount.
    """

    def __init__(self, obs: Float32, starts: NDArray[np.int64]) -> None:
        self.obs, self.starts, self.last = obs, starts, starts[1:] - 1
        self.usual = np.full(obs.shape[1], np.inf)
        rows = self._sample()
        rows = np.setdiff1d(rows, self.last)
        if len(rows) >= _LEAST:
            with np.errstate(over="ignore", invalid="ignore"):
                change = np.abs(obs[rows + 1].astype(np.float64) - obs[rows])
                middle, usual = np.quantile(change, (0.5, 0.98), axis=0)
            self.usual = np.where((middle > 0) & np.isfinite(usual), usual, np.inf)
        self.moving = int(np.isfinite(self.usual).sum())
        """How many numbers change at most steps."""

    def after(self, rows: Rows | slice) -> NDArray[np.float64]:
        """Return the changes (R, O) from these rows to the next."""
        after = slice(rows.start + 1, rows.stop + 1) if isinstance(rows, slice) else rows + 1
        return np.abs(self.obs[after].astype(np.float64) - self.obs[rows]) / self.usual

    def usual_after(self, rows: Rows) -> Flags:
        """Return whether the changes from these rows (R,) to the next are as within episodes."""
        return np.all(self.after(rows) <= _USUAL, axis=1)

    def unusual_after(self, rows: Rows) -> Flags:
        """Return whether several numbers change from these rows (R,) as they rarely do."""
        return (self.after(rows) > _UNUSUAL).sum(axis=1) >= min(2, self.moving)

    def smooth(self) -> bool:
        """Whether some number changes little in a step, beside its spread over all of the data."""
        return bool((self.usual < 0.5 * self.obs[self._sample()].std(axis=0)).any())

    def jumps(self) -> Rows:
        """Return the rows within episodes after which observations jump.

        That is where a quarter of the numbers, and three at least, change as they rarely do, or
        where two change by far more than they ever do at the steps that are no jumps.
        """
        rows, columns, sizes = list[Rows](), list[Rows](), list[NDArray[np.floating]]()
        ends = np.zeros(len(self.obs), np.bool_)
        ends[self.last] = True
        usual = (2 * self.usual).astype(np.float32)
        for first in range(0, len(self.obs) - 1, ROWS):
            block = slice(first, min(first + ROWS, len(self.obs) - 1))
            change = np.abs(self.obs[block.start + 1 : block.stop + 1] - self.obs[block])
            row, column = np.nonzero(change > usual)
            inside = ~ends[block.start + row]
            rows.append(block.start + row[inside])
            columns.append(column[inside])
            sizes.append((change[row, column] / self.usual[column])[inside])
        row, column, size = np.concatenate(rows), np.concatenate(columns), np.concatenate(sizes)
        order = np.lexsort((size, column))
        row, column, size = row[order], column[order], size[order]
        unusual = np.bincount(row[size > _UNUSUAL], minlength=len(self.obs))
        many = unusual >= max(3, self.moving / 4)
        jumps = np.zeros(len(self.obs), np.int64)
        edges = [*np.unique(column, return_index=True)[1].tolist(), len(column)]
        for first, end in pairwise(edges):
            ratio = size[first:end] / np.append(2.0, size[first : end - 1])
            if end - first < 0.05 * len(self.obs) and ratio.max() >= _GAP:
                jumps[row[first + int(ratio.argmax()) : end]] += 1
        return np.flatnonzero(many | (jumps >= 2))

    def largest(self, rows: Rows) -> str:
        """Return the largest of the changes after these rows, as text."""
        changes = self.after(rows)
        at, number = np.unravel_index(int(changes.argmax()), changes.shape)
        row = int(rows[at])
        size = abs(float(self.obs[row + 1, number]) - float(self.obs[row, number]))
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        step = row - int(self.starts[episode])
        return f"by {size:.3g} in number {number} after step {step} of episode {episode}"

    def _sample(self) -> Rows:
        return np.unique(np.linspace(0, len(self.obs) - 2, _SAMPLE, dtype=np.int64))


def find_jumps(obs: Float32, starts: NDArray[np.int64]) -> list[str]:
    """Return a note where observations (N, O) jump within episodes, [] where they do not."""
    if len(obs) <= _LEAST:
        return []
    changes = Changes(obs, starts)
    if not changes.moving:
        return []
    ends = changes.last[:-1]  # after which the next episode starts
    lengths = np.diff(starts)
    for when, mend, rows, long in (
        ("late", "earlier", ends - 1, lengths[:-1] > 1),
        ("early", "later", ends + 1, lengths[1:] > 1),
    ):
        found = rows[long][changes.unusual_after(rows[long]) & changes.usual_after(ends[long])]
        if len(found) >= max(2, _SHARE * len(ends)):
            return [
                f"{len(found)} of {len(ends) + 1} episodes seem to end one row too {when}: there "
                f"observations jump (most {changes.largest(found)}), and go on from one episode to "
                f"the next; mark their ends one row {mend}"
            ]
    if (rows := changes.jumps()).size:
        return [
            f"observations jump at {len(rows)} steps within episodes, as from one episode to the "
            f"next (most {changes.largest(rows)}): ends of episodes may be missing, or in other "
            f"rows"
        ]
    return []
