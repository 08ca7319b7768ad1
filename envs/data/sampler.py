"""Samplers: from Trajectories to batches, vectorised, seeded, resumable to the bit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.data.trajectories import Trajectories
from envs.data.transitions import Transitions
from envs.errors import UserError

T = TypeVar("T")


class Batch(NamedTuple, Generic[T]):
    """B rows of T steps, C-contiguous. Where mask is False everything is zero (padding)."""

    obs: T
    """(B, T, O), as in the data: not normalised"""
    action: T
    """(B, T, A) what is to be predicted"""
    prev_action: T
    """(B, T, A) the action one step earlier in the episode; zeros at an episode's first step"""
    rtg: T
    """(B, T, 1) return-to-go, the reward of this step included, unscaled"""
    timestep: T
    """(B, T) the step's place in its episode, from 0"""
    resets: T
    """(B, T) True where the recurrent state is cleared before the step: always at t = 0"""
    mask: T
    """(B, T) True at real steps, False at padding (which is always to the right)"""
    reward: T | None = None
    """(B, T) the reward that follows the action. This field and those below: see `transitions`"""
    next_obs: T | None = None
    """(B, T, O) the observation that follows the action; zero at a termination where the data does
    not have it, or has NaN or infinity"""
    terminated: T | None = None
    """(B, T) True at the last step of an episode that the environment ended, never at a time limit
    or a cut: what follows has no value, and `next_obs` is not to be used"""
    prev_reward: T | None = None
    """(B, T, 1) the reward one step earlier in the episode; zero at an episode's first step. This
    field and those below: see `inputs`"""


def _prev_reward(data: Trajectories) -> NDArray[np.float32]:
    before = np.roll(data.reward, 1)[:, None]
    before[data.starts[:-1]] = 0.0
    return before


OPTIONAL_INPUTS: dict[str, Callable[[Trajectories], NDArray[Any]]] = {"prev_reward": _prev_reward}
"""The values (N, ...) of each optional input at every step of the data, by the field's name."""


class Sampler(ABC):
    """What both samplers share: gathering rows of steps, weights, and the state to resume from.

    `weights` (E,) are relative chances of the episodes, on top of the sampler's own rule (which
    already gives longer episodes more steps); None takes those of the trajectories.
    transitions: whether batches have reward, next_obs and terminated; inputs: the names of the
    OPTIONAL_INPUTS that they have. Neither changes which steps are drawn. UserError where
    transitions are wanted and an episode that did not terminate lacks its final observation.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        batch_size: int,
        length: int,
        seed: int = 0,
        weights: ArrayLike | None = None,
        *,
        transitions: bool = False,
        inputs: Collection[str] = (),
    ) -> None:
        if batch_size < 1 or length < 1:
            raise UserError(
                f"batch size {batch_size} and row length {length} must both be at least 1"
            )
        self.batch_size, self.length = batch_size, length
        given = trajectories.weights if weights is None else weights
        self.weights = _check_weights(given, trajectories)
        self._starts, self._lengths = trajectories.starts, trajectories.lengths
        # Plain views: a batch taken from a memory map is not to be one.
        self._obs, self._action = np.asarray(trajectories.obs), np.asarray(trajectories.action)
        self._rtg = trajectories.returns_to_go()[:, None]
        self._timestep = trajectories.timesteps()
        self._transitions = Transitions(trajectories) if transitions else None
        self._rng = np.random.default_rng(seed)
        self._steps = np.zeros((0, length), np.int64)
        self._own: slice | None = None
        self.share = 1.0
        """The part of the last batch's real steps that `sample` returned; see `shard`."""
        self._inputs = {name: OPTIONAL_INPUTS[name](trajectories) for name in inputs}
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Prepare what the sampler needs beside the arrays."""

    @abstractmethod
    def sample(self) -> Batch[NDArray[Any]]:
        """Draw the next batch."""

    def shard(self, rank: int, ranks: int) -> None:
        """Return only every `ranks`-th row of each batch from now on, beginning with row `rank`.

        The batches of samplers of one seed, and of all ranks, are together those of one that was
        not sharded, and their states can be exchanged.
        """
        if not 0 <= rank < ranks <= self.batch_size:
            raise UserError(
                f"a batch of {self.batch_size} rows cannot be shared by {ranks} processes: raise "
                "--data.batch-size, which is that of all together, or take fewer"
            )
        self._own = slice(rank, None, ranks)

    def last_episodes(self) -> list[int]:
        """Return the episodes, in order, that the last batch had steps of, all ranks' rows."""
        return np.unique(np.searchsorted(self._starts, self._steps, side="right") - 1).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to draw the same batches again, fit for JSON."""
        rng = self._rng.bit_generator.state
        return {"sampler": type(self).__name__, "fits": self._fits(), "rng": rng}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a sampler of the same data, batch size, length and weights stood."""
        if state["sampler"] != type(self).__name__ or state["fits"] != self._fits():
            raise UserError(
                f"the saved sampler state is of {state['sampler']} {state['fits']}, this run has "
                f"{type(self).__name__} {self._fits()}; resume with the same data and options"
            )
        self._rng.bit_generator.state = state["rng"]

    def _fits(self) -> dict[str, Any]:
        weights = None if self.weights is None else float(self.weights @ self._lengths)
        return {
            "episodes": len(self._lengths),
            "steps": len(self._timestep),
            "batch_size": self.batch_size,
            "length": self.length,
            "weights": weights,
        }

    def _gather(
        self, steps: NDArray[np.int64], resets: NDArray[np.bool_], mask: NDArray[np.bool_] | None
    ) -> Batch[NDArray[Any]]:
        """Take the steps (B, T) of the flat arrays, of this rank's rows; blank the padding."""
        self._steps = steps
        if (own := self._own) is not None:
            real = np.ones(steps.shape, np.bool_) if mask is None else mask
            self.share = float(np.count_nonzero(real[own]) / np.count_nonzero(real))
            steps, resets = steps[own], resets[own].copy()
            mask = None if mask is None else mask[own].copy()
        timestep = self._timestep.take(steps)
        prev_action = self._action.take(steps - 1, axis=0)
        prev_action[timestep == 0] = 0.0
        batch: Batch[NDArray[Any]] = Batch(
            self._obs.take(steps, axis=0),
            self._action.take(steps, axis=0),
            prev_action,
            self._rtg.take(steps, axis=0),
            timestep,
            resets,
            np.ones(steps.shape, np.bool_) if mask is None else mask,
        )
        if self._transitions is not None:
            batch = batch._replace(**self._transitions.take(steps))
        if self._inputs:
            batch = batch._replace(**{k: v.take(steps, axis=0) for k, v in self._inputs.items()})
        if mask is not None and not mask.all():
            for values in batch:  # the data is finite, so that 0 * x is 0
                if values is not None and values is not mask:
                    np.multiply(values, mask if values.ndim == 2 else mask[..., None], out=values)
        return batch


class PackedSampler(Sampler):
    """Rows of whole episodes laid end to end, with resets inside and no padding.

    An epoch is all episodes in a fresh random order, end to end, as a circle of N steps. It is cut
    into ceil(N / length) rows at a random phase, and the rows are dealt out in random order. So
    every step is in exactly one row of an epoch, except that the last row wraps round to fill
    itself. A row always begins with resets = True; in the middle of an episode it has the true
    previous action there. With weights, an epoch is E episodes drawn with replacement.

    Example:
        >>> import numpy as np
        >>> from envs.data.trajectories import Episode
        >>> walk = Episode(np.ones((3, 2)), np.ones((3, 1)), np.ones(3), True)
        >>> data = Trajectories.from_episodes([walk, walk], env="Walk-v0", name="demo/walk-v0")
        >>> batch = PackedSampler(data, batch_size=2, length=3, seed=0).sample()
        >>> batch.obs.shape, bool(batch.mask.all()), batch.resets[:, 0].tolist()
        ((2, 3, 2), True, [True, True])
    """

    def sample(self) -> Batch[NDArray[Any]]:
        """Draw the next batch_size rows; a batch may take in the end of an epoch and the next."""
        parts: list[NDArray[np.int64]] = []
        missing = self.batch_size
        while missing:
            if self._cursor >= len(self._rows):
                self._begin()
            part = self._rows[self._cursor : self._cursor + missing]
            self._cursor += len(part)
            missing -= len(part)
            parts.append(part)
        steps = parts[0] if len(parts) == 1 else np.concatenate(parts)
        resets = self._timestep.take(steps) == 0
        resets[:, 0] = True
        return self._gather(steps, resets, None)

    def state_dict(self) -> dict[str, Any]:
        """As the base class; the epoch is stored as the generator's state before it was dealt."""
        return super().state_dict() | {"rng": self._epoch_state, "cursor": self._cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base class; the epoch is dealt again. ValueError where it has no such row."""
        super().load_state_dict(state)
        self._begin()
        cursor = int(state["cursor"])
        if not 0 <= cursor <= len(self._rows):
            raise ValueError(f"row {cursor} of {len(self._rows)}")
        self._cursor = cursor

    def _begin(self) -> None:
        """Start an epoch."""
        self._epoch_state, self._cursor = self._rng.bit_generator.state, 0
        count = len(self._lengths)
        if self.weights is None:
            order = self._rng.permutation(count)
        else:
            order = self._rng.choice(count, count, p=self.weights)
        lengths = self._lengths[order]
        ends = np.cumsum(lengths)
        stream = np.arange(ends[-1]) + np.repeat(self._starts[order] - (ends - lengths), lengths)
        num_rows = -(-len(stream) // self.length)
        phase = self._rng.integers(self.length)
        place = (np.arange(num_rows * self.length) + phase) % len(stream)
        self._rows = self._rng.permutation(stream[place].reshape(num_rows, self.length))


class WindowSampler(Sampler):
    """Windows of one episode each.

    All windows that overlap an episode have equal chance (times its weight), those included that
    would begin up to length - 1 steps before it: they are moved to its first step. So every step
    is in at least `length` of the windows. (Decision Transformer starts windows at the episode's
    steps alone, which shows the first step `length` times less often than others.) A window that
    reaches past the end is padded on the right: mask = False. The first step has resets = True.
    With weights, an episode has as many of the steps shown as its weight times its length says.

    Example:
        >>> import numpy as np
        >>> from envs.data.trajectories import Episode
        >>> walk = Episode(np.ones((3, 2)), np.ones((3, 1)), np.ones(3), True)
        >>> data = Trajectories.from_episodes([walk], env="Walk-v0", name="demo/walk-v0")
        >>> batch = WindowSampler(data, batch_size=4, length=5, seed=0).sample()
        >>> bool((batch.mask.sum(1) == 3 - batch.timestep[:, 0]).all())
        True
    """

    def _begin(self) -> None:
        length = self.length
        self._windows = self._lengths + length - 1
        mass = self._windows.astype(np.float64)
        if self.weights is not None:
            full = np.minimum(self._lengths, length)
            # Steps in all windows of an episode: those at its first step, full ones, those cut off.
            shown = (length - 1) * full + (self._lengths - full) * length + full * (full + 1) // 2
            mass *= self.weights * self._lengths / shown
        self._chance = np.cumsum(mass) / np.sum(mass)
        self._chance[np.flatnonzero(mass)[-1] :] = 1.0  # rounding must not leave a gap below 1
        self._offsets = np.arange(length)

    def sample(self) -> Batch[NDArray[Any]]:
        """Draw batch_size windows."""
        episode = np.searchsorted(self._chance, self._rng.random(self.batch_size), side="right")
        offset = self._rng.integers(self._windows[episode]) - (self.length - 1)
        start = self._starts[episode] + np.maximum(offset, 0)
        steps = start[:, None] + self._offsets
        last = self._starts[episode + 1][:, None] - 1
        mask = steps <= last
        resets = np.zeros(steps.shape, np.bool_)
        resets[:, 0] = True
        return self._gather(np.minimum(steps, last), resets, mask)


def _check_weights(
    weights: ArrayLike | None, trajectories: Trajectories
) -> NDArray[np.float64] | None:
    """Return the weights (E,) scaled to sum 1."""
    if weights is None:
        return None
    given = np.asarray(weights, np.float64)
    if given.shape != (trajectories.num_episodes,):
        raise UserError(
            f"weights have shape {given.shape}; give one for each of the "
            f"{trajectories.num_episodes} episodes"
        )
    if not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise UserError("weights must be finite, not negative, and not all zero")
    return given / given.sum()
