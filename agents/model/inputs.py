"""The inputs of a model: one tuple for training, acting, exported graphs and compiled engines.

An input is a field of `Inputs` here, with its value while acting in `EpisodeInputs`; a field of the
sampler's Batch by the same name, its value in training; and an embedding in agents.model.tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
U = TypeVar("U")


class Inputs(NamedTuple, Generic[T]):
    """What a model reads at a step: tensors or arrays (B, T, ...) in training, (B, ...) in acting.

    Values are as the environment gives them; the model normalises. A model lists the optional
    inputs that it reads in `config.inputs`; those that it does not read may be None.
    """

    obs: T
    """(..., O) float32"""
    rtg: T
    """(..., 1) float32: the return-to-go, in units of reward"""
    prev_action: T
    """(..., A) float32: the action of the step before; zeros at an episode's first step"""
    timestep: T
    """(...) int64: the step's place in its episode, from 0"""
    resets: T
    """(...) bool: an episode, or a row, starts at this step, and the state is cleared before it"""
    prev_reward: T | None = None
    """(..., 1) float32, optional: the reward of the step before; zero at an episode's first step"""

    @classmethod
    def of(cls, batch: Any) -> Inputs[T]:
        """Return the inputs of a sampler's batch."""
        return cls(*(getattr(batch, name) for name in cls._fields))

    def map(self, function: Callable[[T], U]) -> Inputs[U]:
        """Return the inputs with a function applied to each that is there."""
        return Inputs(*(None if value is None else function(value) for value in self))  # type: ignore[arg-type]


REQUIRED = tuple(name for name in Inputs._fields if name not in Inputs._field_defaults)
"""Names of the inputs that every model is given."""
OPTIONAL = tuple(Inputs._field_defaults)
"""Names of the inputs that a model reads only where its configuration lists them."""


class EpisodeInputs:
    """The inputs of K environments while acting: the return-to-go starts at an episode's target."""

    def __init__(
        self,
        targets: Sequence[float] | NDArray[Any],
        action_dim: int,
        optional: Sequence[str] = (),
        obs_offset: Sequence[float] = (),
    ) -> None:
        """`optional`: names of the optional inputs that are wanted; `obs_offset`: of the model."""
        self.targets = np.asarray(targets, dtype=np.float64)
        self._action_dim, self._optional = action_dim, optional
        self._offset = np.array(obs_offset, dtype=np.float64)
        self.start(0)

    def start(self, rows: int) -> None:
        """Begin with K = rows environments."""
        self._rtg, self._timestep = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self._action = np.zeros((rows, self._action_dim), dtype=np.float32)

    def observe(
        self, obs: NDArray[Any], reward: NDArray[Any], resets: NDArray[Any], episode: NDArray[Any]
    ) -> Inputs[NDArray[Any]]:
        """Return the inputs (K, ...) of a step.

        obs (K, O); reward (K,): what the previous action earned; resets (K,): rows that start an
        episode; episode (K,): the index of each row's episode in `targets`.
        """
        self._rtg -= reward
        self._timestep += 1
        if resets.any():
            np.copyto(self._rtg, self.targets[episode], where=resets)
            self._timestep[resets] = 0
            self._action[resets] = 0
        if len(self._offset):
            obs = obs - self._offset  # before the digits are lost
        inputs = Inputs(
            np.array(obs, dtype=np.float32, order="C"),
            self._rtg.astype(np.float32)[:, None],
            self._action,
            self._timestep,
            np.ascontiguousarray(resets, dtype=np.bool_),
        )
        if "prev_reward" in self._optional:
            before = np.where(resets, 0.0, reward).astype(np.float32)[:, None]
            inputs = inputs._replace(prev_reward=before)
        return inputs

    def acted(self, action: NDArray[np.float32]) -> None:
        """Note the actions (K, A) that were taken."""
        self._action = action

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Continue with these rows only: the others have no episode left."""
        self._rtg, self._timestep = self._rtg[rows], self._timestep[rows]
        self._action = self._action[rows]
