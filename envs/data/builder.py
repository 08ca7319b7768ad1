"""Assembly: the arrays of a data set under construction, which a reader fills in place."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.data.bounds import Float32, bounds
from envs.data.repair import clip_actions, end_at_time_limit, leave_out_broken
from envs.data.trajectories import Trajectories
from envs.errors import UserError, one_line
from envs.worlds.spec import EnvSpec


class Assembly:
    """The flat arrays of Trajectories, allocated once; `finish` repairs them and hands them over.

    A reader that fills them without copies of its own needs no more memory than the result.

    Example:
        >>> import numpy as np
        >>> data = Assembly("demo/walk-v0", np.array([3, 2]), obs_dim=2, action_dim=1)
        >>> data.obs[:], data.action[:], data.reward[:] = 0.5, 2.0, 1.0
        >>> done = data.finish(terminated=np.array([True, False]), env="Walk-v0")
        >>> done.returns.tolist(), done.notes
        ([3.0, 2.0], ('actions of 5 steps (100 %) clipped to their bounds, by up to 1',))
    """

    obs: Float32
    """(N, O)"""
    action: Float32
    """(N, A)"""
    reward: Float32
    """(N,)"""
    starts: NDArray[np.int64]
    """(E + 1,)"""

    def __init__(
        self, name: str, lengths: NDArray[np.int64], obs_dim: int, action_dim: int
    ) -> None:
        """Allocate arrays for episodes of these lengths (E,); what they hold is undefined.

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
        needed = 4 * steps * (obs_dim + action_dim + 1)
        try:
            if needed > _memory():  # which Linux may promise all the same
                raise MemoryError
            self.obs = np.empty((steps, obs_dim), np.float32)
            self.action = np.empty((steps, action_dim), np.float32)
            self.reward = np.empty(steps, np.float32)
        except MemoryError as error:
            raise UserError(
                f"{name}: {steps} steps need {needed / 1e9:.1f} GB of memory, which is not there; "
                f"choose a smaller data set"
            ) from error
        self.name = name
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
        """Repair and validate what was filled in, and return it.

        terminated: (E,). action_low, action_high: as Trajectories.from_episodes takes them.
        horizon: the time limit, where it is known. notes: of the reader; those of the repairs
        follow. The assembly must not be used again: its arrays are the result's.
        Raises UserError naming what cannot be repaired.
        """
        given = {"obs": self.obs, "action": self.action, "reward": self.reward}
        arrays, starts, kept, broken = leave_out_broken(self.name, given, self.starts)
        low, high = bounds(arrays["action"], action_low, action_high)
        ended, late = end_at_time_limit(
            np.asarray(terminated, np.bool_)[kept], np.diff(starts), horizon
        )
        made = Trajectories(
            obs=arrays["obs"],
            action=arrays["action"],
            reward=arrays["reward"],
            starts=starts,
            terminated=ended,
            env=EnvSpec.of(env),
            name=self.name,
            action_low=low,
            action_high=high,
        )
        made.validate()
        clipped = clip_actions(made.action, low, high)
        told = (*notes, *broken, *clipped, *late)
        return replace(made, notes=tuple(one_line(note) for note in told))


def _memory() -> float:
    """Return the bytes of memory that this machine has, infinity where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
