"""What engines share that run `agents.acting.step_graph`: buffers for its inputs, and the packed
states."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.acting import step_graph
from agents.acting.engines import Floats, check_times
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs


class Sizes(NamedTuple):
    """The sizes of a step; `max_steps` is the longest episode that it has time embeddings for."""

    obs_dim: int
    action_dim: int
    state_size: int
    max_steps: int | None
    optional: dict[str, int] = {}  # noqa: RUF012 (never changed)
    """The widths of the optional inputs that it reads, by name."""

    @classmethod
    def of(cls, model: DecisionModel) -> Sizes:
        """Return those of a model."""
        limit = model.config.timestep_embedding or None
        optional = step_graph.optional_inputs(model)
        return cls(model.obs_dim, model.action_dim, model.stack.state_size, limit, optional)


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

    def step(self, inputs: Inputs[NDArray[Any]]) -> Floats:
        """See `Engine.step`. Raises UserError beyond the time steps that the model has learned."""
        own = self._inputs
        if inputs.obs.shape != own["obs"].shape:
            raise ValueError(f"expected observations {own['obs'].shape}, not {inputs.obs.shape}")
        check_times(inputs.timestep, self._sizes.max_steps)
        for name, buffer in own.items():
            buffer[...] = getattr(inputs, name)
        if self._fresh:
            own["resets"][:] = True
        self._fresh = False
        return self._run()

    def keep(self, rows: NDArray[np.int64]) -> None:
        """See `Engine.keep`."""
        self._fit(self._states()[rows])

    def _fit(self, state: Floats) -> None:
        # New buffers, for the rows of a state (K, S) that is the engine's from here on.
        rows, sizes = len(state), self._sizes
        self._inputs: dict[str, NDArray[Any]] = {
            "obs": np.zeros((rows, sizes.obs_dim), np.float32),
            "rtg": np.zeros((rows, 1), np.float32),
            "prev_action": np.zeros((rows, sizes.action_dim), np.float32),
            "timestep": np.zeros(rows, np.int64),
            "resets": np.zeros(rows, np.bool_),
        }
        for name, width in sizes.optional.items():
            self._inputs[name] = np.zeros((rows, width), np.float32)
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
