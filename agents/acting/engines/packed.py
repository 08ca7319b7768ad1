"""What engines share that run `agents.acting.step_graph`: buffers for its inputs, and the packed
states."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.acting.engines import Floats, check_times
from agents.model.decision import DecisionModel


class Sizes(NamedTuple):
    """The sizes of a step; `max_steps` is the longest episode that it has time embeddings for."""

    obs_dim: int
    action_dim: int
    state_size: int
    max_steps: int | None

    @classmethod
    def of(cls, model: DecisionModel) -> Sizes:
        """Return those of a model."""
        limit = model.config.timestep_embedding or None
        return cls(model.obs_dim, model.action_dim, model.stack.state_size, limit)


class PackedEngine:
    """Keep inputs and states in place for `_run`, which reads and replaces them."""

    name: str

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._fresh = True
        self._fit(np.zeros((0, sizes.state_size), np.float32))

    def start(self, rows: int) -> None:
        """See `Engine.start`."""
        # Zeros are no start where a cell has learned its own: the first step resets all rows.
        self._fresh = True
        self._fit(np.zeros((rows, self._sizes.state_size), np.float32))

    def step(
        self,
        obs: Floats,
        rtg: Floats,
        prev_action: Floats,
        timestep: NDArray[np.int64],
        resets: NDArray[np.bool_],
    ) -> Floats:
        """See `Engine.step`. Raises UserError beyond the time steps that the model has learned."""
        if obs.shape != self._obs.shape:
            raise ValueError(f"expected observations {self._obs.shape}, not {obs.shape}")
        check_times(timestep, self._sizes.max_steps)
        self._obs[...] = obs
        self._rtg[:, 0] = rtg
        self._prev_action[...] = prev_action
        self._timestep[...] = timestep
        self._resets[...] = True if self._fresh else resets
        self._fresh = False
        return self._run()

    def keep(self, rows: NDArray[np.int64]) -> None:
        """See `Engine.keep`."""
        self._fit(self._states()[rows])

    def _fit(self, state: Floats) -> None:
        # New buffers, for the rows of a state (K, S) that is the engine's from here on.
        rows, sizes = len(state), self._sizes
        self._obs = np.zeros((rows, sizes.obs_dim), np.float32)
        self._rtg = np.zeros((rows, 1), np.float32)
        self._prev_action = np.zeros((rows, sizes.action_dim), np.float32)
        self._timestep = np.zeros(rows, np.int64)
        self._resets = np.zeros(rows, np.bool_)
        self._inputs = (self._obs, self._rtg, self._prev_action, self._timestep, self._resets)
        self._bind(state)

    def _bind(self, state: Floats) -> None:
        """Take the new input buffers and this state."""
        raise NotImplementedError

    def _states(self) -> Floats:
        """Return the state (K, S) before the next step."""
        raise NotImplementedError

    def _run(self) -> Floats:
        """Compute one step from the buffers; return the actions."""
        raise NotImplementedError
