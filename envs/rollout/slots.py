"""The slots of a rollout, and the queue of episodes that they work through."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError, one_line
from envs.rollout.episode import InvalidOutput, Outcome, Settings, Slot, as_array


class Slots:
    """The slots that still run, and the queue that they take their episodes from."""

    def __init__(
        self,
        settings: Settings,
        slots: list[Slot],
        take: Callable[[], int | None],
        finished: Callable[[Outcome], None],
    ) -> None:
        self.settings, self._take, self._finished = settings, take, finished
        self.slots = slots
        self.obs: list[Any] = [None] * len(slots)
        self.rewards, self.resets = [0.0] * len(slots), [False] * len(slots)
        self._shape: tuple[int, ...] | None = None
        self._done: list[int] = []
        for k in range(len(slots)):
            self.begin(k)

    def begin(self, k: int) -> None:
        """Start the next episode of the queue in slot k; without one, the slot is done."""
        slot, settings = self.slots[k], self.settings
        while not slot.lost and (i := self._take()) is not None:
            try:
                self.obs[k] = slot.begin(i, settings.seeds[i], settings.record)
                self._check(k)
            except UserError:
                raise
            except Exception as error:
                self.fail(k, error)
                continue
            self.rewards[k], self.resets[k] = 0.0, True
            return
        self._done.append(k)

    def end(self, k: int, terminated: bool) -> None:
        """Report the outcome of slot k's episode, which has ended."""
        slot, settings = self.slots[k], self.settings
        try:
            self._check(k)
        except InvalidOutput as error:
            self.fail(k, error)
            return
        seed = settings.seeds[slot.outcome.index]
        self._finished(slot.end(terminated, seed, settings.record))

    def fail(self, k: int, error: Exception) -> None:
        """Report that slot k's episode failed with `error`, and make a new environment for it.

        Where that is impossible, the slot is lost and the others run the rest of the queue.
        """
        slot, outcome = self.slots[k], self.slots[k].outcome
        seed = self.settings.seeds[outcome.index]
        if not self.settings.tolerant:
            if not isinstance(error, InvalidOutput):
                raise error
            raise UserError(
                f"episode {outcome.index} (seed {seed}), step {outcome.length}: {error}; leave "
                f"that seed out, or repair the environment"
            )
        with contextlib.suppress(Exception):
            slot.env.close()
        reason = _first_line(error)
        try:
            slot.env = self.settings.make()
        except Exception as another:
            slot.lost = True
            reason += f"; then it could not be made again: {_first_line(another)}"
        failure = one_line(f"seed {seed}, step {outcome.length}: {reason}")
        self._finished(Outcome(outcome.index, math.nan, outcome.length, failure=failure))

    def settle(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Drop the slots that are done; return the observations (K, O) of the others.

        Also returns the places of the K slots among those before, None where all are left.
        """
        while True:
            live = list(range(len(self.slots)))
            if self._done:
                live = [k for k in live if k not in self._done]
            obs = self._stack([self.obs[k] for k in live] if self._done else self.obs)
            if obs is not None:
                break
            for k in live:
                try:
                    self._check(k)
                except InvalidOutput as error:
                    self.fail(k, error)
                    self.begin(k)
        if not self._done:
            return obs, None
        self._done = []
        self.slots, self.obs = [self.slots[k] for k in live], [self.obs[k] for k in live]
        self.rewards = [self.rewards[k] for k in live]
        self.resets = [self.resets[k] for k in live]
        return obs, np.array(live, np.int64)

    def _stack(self, obs: list[Any]) -> NDArray[np.float64] | None:
        # All slots at once, because this runs at every step; None where one is invalid.
        try:
            stacked = np.array(obs, np.float64)
        except (TypeError, ValueError):
            return None
        if obs and (stacked.shape[1:] != self._shape or not np.isfinite(stacked).all()):
            return None
        return stacked

    def _check(self, k: int) -> None:
        obs = as_array(self.obs[k], np.float64)
        self._shape = obs.shape if self._shape is None else self._shape
        if obs.shape != self._shape:
            raise InvalidOutput(f"the environment's observation is {obs.shape}, not {self._shape}")
        if not np.isfinite(obs).all():
            raise InvalidOutput("the environment's observation is not finite")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return type(error).__name__ + (f": {lines[0]}" if lines else "")
