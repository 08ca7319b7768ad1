"""The builder of Trajectories: flat arrays, which a reader fills in place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVarTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.data.bounds import Float32, bounds, narrowed
from envs.data.jumps import find_jumps
from envs.data.offset import Float64, first_finite, lost, poor, taken
from envs.data.repair import clip_actions, drop_episodes, end_at_time_limit, find_broken
from envs.data.trajectories import Trajectories
from envs.errors import UserError, one_line
from envs.worlds.spec import EnvSpec

Rest = TypeVarTuple("Rest")


class TrajectoriesBuilder:
    """Allocates the arrays of Trajectories once; `finish` repairs them and returns the data set.

    A reader that fills them without copies of its own needs no more memory than the result.

    Example:
        >>> import numpy as np
        >>> data = TrajectoriesBuilder("demo/walk-v0", np.array([3, 2]), obs_dim=2, action_dim=1)
        >>> data.set_obs(0, 0, 0, np.full((4, 2), 0.5))  # the fourth is the final observation
        >>> data.set_obs(1, 0, 0, np.full((3, 2), 0.5))
        >>> data.action[:], data.reward[:] = 2.0, 1.0
        >>> done = data.finish(terminated=np.array([True, False]), env="Walk-v0")
        >>> done.returns.tolist(), done.final_obs.shape, done.notes
        ([3.0, 2.0], (2, 2), ('actions of 5 steps (100 %) clipped to their bounds, by up to 1',))
    """

    obs: Float32
    """(N, O)"""
    action: Float32
    """(N, A)"""
    reward: Float32
    """(N,)"""
    final_obs: Float32 | None
    """(E, O); a reader that does not have it for every episode sets it to None"""
    starts: NDArray[np.int64]
    """(E + 1,)"""

    def __init__(
        self,
        name: str,
        lengths: NDArray[np.int64],
        obs_dim: int,
        action_dim: int,
        obs_offset: Float64 | None = None,
    ) -> None:
        """Allocate arrays for episodes of these lengths (E,), with undefined contents.

        obs_offset: (O,) what is taken off observations before they become float32.
        Raises UserError where there are no episodes, one is empty, an observation or an action
        has no numbers, or there is not enough memory.
        """
        lengths = np.asarray(lengths, np.int64)
        if not len(lengths):
            raise UserError(f"{name}: the data set has no episodes; delete it and make it again")
        if (empty := np.flatnonzero(lengths < 1)).size:
            raise UserError(f"{name}: episode {empty[0]} is empty; remove it from the data set")
        for label, size in (("obs", obs_dim), ("action", action_dim)):
            if size < 1:
                raise UserError(f"{name}: {label} has no numbers in it; choose another data set")
        steps = sum(lengths.tolist())  # Python's integers do not overflow
        needed = 4 * (steps * (obs_dim + action_dim + 1) + len(lengths) * obs_dim)
        try:
            if needed > _memory():  # Linux may promise more than it has
                raise MemoryError
            self.obs = np.empty((steps, obs_dim), np.float32)
            self.action = np.empty((steps, action_dim), np.float32)
            self.reward = np.empty(steps, np.float32)
            self.final_obs = np.empty((len(lengths), obs_dim), np.float32)
        except MemoryError as error:
            raise UserError(
                f"{name}: {steps} steps need {needed / 1e9:.1f} GB of memory, more than there is; "
                f"choose a smaller data set"
            ) from error
        self.name, self.obs_offset = name, obs_offset
        self.first_obs = np.full(obs_dim, np.nan)  # the first finite ones, as the source has them
        self.starts = np.concatenate(([0], np.cumsum(lengths)))

    def finish(
        self,
        *,
        terminated: NDArray[np.bool_],
        env: EnvSpec | str,
        action_low: ArrayLike | None = None,
        action_high: ArrayLike | None = None,
        horizon: int | None = None,
        notes: Sequence[str] = (),
    ) -> Trajectories:
        """Repair and validate the arrays, and return them as Trajectories.

        terminated: (E,). action_low, action_high: as Trajectories.from_episodes takes them.
        horizon: the time limit, where it is known. notes: of the reader; those of the repairs
        follow. The builder must not be used again: its arrays are the result's.
        Raises UserError naming what cannot be repaired.
        """
        arrays = {"obs": self.obs, "action": self.action, "reward": self.reward}
        broken, left_out = find_broken(self.name, arrays, self.starts)
        self.drop(broken)
        low, high = bounds(self.action, action_low, action_high)
        ended, late = end_at_time_limit(
            np.asarray(terminated, np.bool_)[~broken], np.diff(self.starts), horizon
        )
        made = Trajectories(
            **self._arrays(),
            starts=self.starts,
            terminated=ended,
            env=EnvSpec.of(env),
            name=self.name,
            action_low=low,
            action_high=high,
            obs_offset=self.obs_offset,
        )
        made.validate()
        low, high, narrow = narrowed(made.action, low, high)
        made = replace(made, action_low=low, action_high=high)
        clipped = clip_actions(made.action, low, high)
        beside = [*lost("rewards", made.reward[:, None]), *lost("actions", made.action)]
        notes = (
            *notes,
            *left_out,
            *beside,
            *narrow,
            *clipped,
            *late,
            *find_jumps(made.obs, made.starts),
        )
        return replace(made, notes=tuple(one_line(note) for note in notes))

    def set_obs(self, episode: int, row: int, column: int, values: NDArray[Any]) -> None:
        """Fill in observations (R, W) of an episode of T steps, rows `row` to row + R <= T + 1.

        column: where the first of their W numbers belongs. Row T is the final observation.
        """
        first, end = self.starts[episode : episode + 2]
        columns = slice(column, column + values.shape[1])
        known = self.first_obs[columns]
        if len(values) and (missing := ~np.isfinite(known)).any():
            self.first_obs[columns] = np.where(missing, first_finite(values), known)
        if self.obs_offset is not None:
            values = values - self.obs_offset[columns]
        steps = min(len(values), max(0, end - first - row))
        self.obs[first + row : first + row + steps, columns] = values[:steps]
        if steps < len(values) and self.final_obs is not None:
            self.final_obs[episode, columns] = values[steps]

    def drop(self, dropped: NDArray[np.bool_]) -> None:
        """Remove episodes (E,); those that stay move together."""
        if dropped.any():
            arrays, self.starts = drop_episodes(self._arrays(), self.starts, dropped)
            vars(self).update(arrays)

    def _arrays(self) -> dict[str, Any]:
        arrays = {"obs": self.obs, "action": self.action, "reward": self.reward}
        return arrays if self.final_obs is None else arrays | {"final_obs": self.final_obs}


def with_offset(
    fill: Callable[[Float64 | None], tuple[TrajectoriesBuilder, *Rest]],
) -> tuple[TrajectoriesBuilder, *Rest]:
    """Return what `fill` returns for the offset (O,) of observations that its data need.

    fill: reads the source into a new builder, and returns it and anything else; it is called a
    second time where float32 is too coarse.
    """
    found = fill(None)
    where = poor(found[0].obs)
    if where is None:
        return found
    first, plain = found[0].first_obs, found[0].final_obs
    offset = np.where(where & np.isfinite(first), first, 0.0)
    del found  # before as much memory is taken again
    found = fill(offset)
    made = found[0]
    made.obs_offset = taken(made.obs, made.final_obs, offset, plain)
    return found


def _memory() -> float:
    """Return the bytes of memory of this machine, infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
