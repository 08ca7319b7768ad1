"""The interface of an engine."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.model.inputs import Inputs
from envs.errors import UserError

Floats = NDArray[np.float32]


class Engine(Protocol):
    """Act in K environments at once, each with a state of its own, by the weights of `make`."""

    name: str

    def start(self, rows: int) -> None:
        """Begin with K = rows environments, every state empty."""

    def step(self, inputs: Inputs[NDArray[Any]]) -> Floats:
        """Return actions (K, A), which the next call may overwrite, for contiguous (K, ...)."""
        ...

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Continue with these rows (M,) alone, in this order."""


def check_times(timestep: NDArray[np.int64], limit: int | None) -> None:
    """Raise UserError where a time step is beyond the embeddings that a model has."""
    if limit is not None and timestep.max(initial=0) >= limit:
        raise UserError(
            f"step {timestep.max()} of an episode is beyond the {limit} that the agent has an "
            "embedding for: train with a larger --model.timestep-embedding, or with 0"
        )
