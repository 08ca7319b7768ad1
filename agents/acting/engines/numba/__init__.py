"""The whole step as one compiled kernel, on one core: agents of minGRU and minLSTM blocks."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.acting.engines.base import Floats, check_times
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs


def why_not(model: DecisionModel, device: torch.device) -> str | None:
    """Say what is missing, or what of the model the kernel does not know."""
    if importlib.util.find_spec("numba") is None:
        return "it needs: pip install numba"
    if device.type != "cpu":
        return f"it runs on a CPU, not on {device}"
    from agents.acting.engines.numba import program

    return program.unknown(model)


class Numba:
    """A program of the model, its weights as they are now, room to work in, and the states."""

    name = "numba"

    def __init__(self, model: DecisionModel) -> None:
        from agents.acting.engines.numba.kernel import kernel
        from agents.acting.engines.numba.program import Program, aligned

        self._aligned = aligned
        self._kernel = kernel()
        self._program = program = Program(model)
        picked = np.zeros(program.widest, np.int64)
        self._fixed = program.numbers, program.constants, aligned(program.work), picked
        self._sizes = model.obs_dim, model.action_dim
        self._fit(self._rows(0))

    def start(self, rows: int) -> None:
        """See `Engine.start`."""
        if rows != len(self._state):
            self._fit(self._rows(rows))
        self._state[:] = self._program.start

    def step(self, inputs: Inputs[NDArray[Any]]) -> Floats:
        """See `Engine.step`. Raises UserError beyond the time steps that the model has learned."""
        expected = self._inputs[0].shape
        if inputs.obs.shape != expected:
            raise ValueError(f"expected observations {expected}, not {inputs.obs.shape}")
        check_times(inputs.timestep, self._program.times)
        # The kernel checks nothing, and sees addresses: copies of its own are right for certain.
        obs, rtg, prev_action, timestep, resets = self._inputs
        obs[...], rtg[...], prev_action[...] = inputs.obs, inputs.rtg, inputs.prev_action
        timestep[...], resets[...] = inputs.timestep, inputs.resets
        self._call()
        return self._action

    def keep(self, rows: NDArray[np.int64]) -> None:
        """See `Engine.keep`."""
        state = self._rows(len(rows))
        state[:] = self._state[rows]
        self._fit(state)

    def _rows(self, count: int) -> Floats:
        width = self._program.state
        return self._aligned(count * width).reshape(count, width)

    def _fit(self, state: Floats) -> None:
        count, (obs, action) = len(state), self._sizes
        self._state = state
        self._inputs = (
            np.zeros((count, obs), np.float32),
            np.zeros((count, 1), np.float32),
            np.zeros((count, action), np.float32),
            np.zeros(count, np.int64),
            np.zeros(count, np.bool_),
        )
        """In the order of `Inputs`."""
        self._action = np.zeros((count, action), np.float32)
        arrays = (*self._fixed, state, *self._inputs, self._action)
        self._arguments = (count, *(array.ctypes.data for array in arrays))

    def _call(self) -> None:
        try:
            self._kernel(*self._arguments)
        except OSError:  # numba compiled it, and could not write that to the disk
            self._kernel(*self._arguments)


def make(model: DecisionModel, device: torch.device) -> Numba:
    """Return the engine."""
    del device
    return Numba(model)
