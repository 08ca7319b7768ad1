"""The rows of a rollout's batch and the queue that they play; an episode that fails ends alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError, one_line
from envs.rollout.episode import Played, Row, Unsound, World


class Table:
    """The rows that play, and the queue that they take their episodes from."""

    def __init__(
        self,
        world: World,
        rows: list[Row],
        take: Callable[[], int | None],
        finished: Callable[[Played], None],
    ) -> None:
        self.world, self._take, self._finished = world, take, finished
        self.rows = rows
        self.obs: list[Any] = [None] * len(rows)
        self.gains, self.resets = [0.0] * len(rows), [False] * len(rows)
        self._shape: tuple[int, ...] | None = None
        self._over: list[int] = []
        for k in range(len(rows)):
            self.begin(k)

    def begin(self, k: int) -> None:
        """Start the next episode of the queue in row k, or note that it plays no more."""
        row, world = self.rows[k], self.world
        while not row.lost and (i := self._take()) is not None:
            try:
                self.obs[k] = row.begin(i, world.seeds[i], world.record)
                self._check(k)
            except UserError:
                raise
            except Exception as error:
                self.fail(k, error)
                continue
            self.gains[k], self.resets[k] = 0.0, True
            return
        self._over.append(k)

    def end(self, k: int, terminated: bool) -> None:
        """Tell of the episode of row k, which is over."""
        row = self.rows[k]
        try:
            self._check(k)
        except Unsound as error:
            self.fail(k, error)
            return
        self._finished(row.end(terminated, self.world.seeds[row.index], self.world.record))

    def fail(self, k: int, error: Exception) -> None:
        """Tell of the episode of row k, which `error` has ended, and take a new environment.

        Where none can be made, the row is lost: the others play what is left of the queue.
        """
        row = self.rows[k]
        seed = self.world.seeds[row.index]
        if not self.world.forgiving:
            if not isinstance(error, Unsound):
                raise error
            raise UserError(
                f"episode {row.index} (seed {seed}), step {row.length}: {error}; leave that seed "
                f"out, or mend the environment"
            )
        with contextlib.suppress(Exception):
            row.env.close()
        what = _told(error)
        try:
            row.env = self.world.make()
        except Exception as another:
            row.lost = True
            what += f"; then it could not be made anew: {_told(another)}"
        failure = one_line(f"seed {seed}, step {row.length}: {what}")
        self._finished(Played(row.index, math.nan, row.length, failure=failure))

    def settle(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Return the observations (K, O) of the rows that play on, and their places if not all."""
        while True:
            live = list(range(len(self.rows)))
            if self._over:
                live = [k for k in live if k not in self._over]
            obs = self._stack([self.obs[k] for k in live] if self._over else self.obs)
            if obs is not None:
                break
            for k in live:
                try:
                    self._check(k)
                except Unsound as error:
                    self.fail(k, error)
                    self.begin(k)
        if not self._over:
            return obs, None
        self._over = []
        self.rows, self.obs = [self.rows[k] for k in live], [self.obs[k] for k in live]
        self.gains = [self.gains[k] for k in live]
        self.resets = [self.resets[k] for k in live]
        return obs, np.array(live, np.int64)

    def _stack(self, obs: list[Any]) -> NDArray[np.float64] | None:
        # Of all rows at once, as it is done at every step; None where one is not sound.
        try:
            stacked = np.array(obs, np.float64)
        except (TypeError, ValueError):
            return None
        if obs and (stacked.shape[1:] != self._shape or not np.isfinite(stacked).all()):
            return None
        return stacked

    def _check(self, k: int) -> None:
        try:
            obs = np.array(self.obs[k], np.float64)
        except (TypeError, ValueError):
            raise Unsound("the environment's observation is no array of numbers") from None
        self._shape = obs.shape if self._shape is None else self._shape
        if obs.shape != self._shape:
            raise Unsound(f"the environment's observation is {obs.shape}, not {self._shape}")
        if not np.isfinite(obs).all():
            raise Unsound("the environment's observation is not finite")


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return type(error).__name__ + (f": {lines[0]}" if lines else "")
