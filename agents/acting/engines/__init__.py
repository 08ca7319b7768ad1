"""Engines: what runs the model's step while it acts, each a module that imports its own packages.

It has `make(model, device)`, and `why_not(model, device)`: why it cannot act here, or None.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from envs.errors import UserError

Floats = NDArray[np.float32]

_MODULES = ("numba", "onnx", "eager")  # best first
_AUTO = ("numba", "eager")  # those that start within seconds
SAME_FOR_ANY_ROWS = ("numba",)
"""Those in which a row's actions are the same, to the last bit, whatever rows are beside it."""


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


def names() -> tuple[str, ...]:
    """Return the names of all engines, best first."""
    return _MODULES


def available(model: DecisionModel, device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Return the names of the engines that work here for this model, best first."""
    return tuple(name for name in _MODULES if why_not(name, model, device) is None)


def why_not(name: str, model: DecisionModel, device: torch.device | str = "cpu") -> str | None:
    """Say why an engine cannot act here with this model; None where it can."""
    return _module(name).why_not(model, torch.device(device))


def choose(model: DecisionModel, name: str = "auto", device: torch.device | str = "cpu") -> str:
    """Return `name`, or for "auto" the best of the engines that start within seconds.

    Raises UserError for a name that there is not, and for an engine that cannot act with the model.
    """
    if name == "auto":
        return next(n for n in _AUTO if why_not(n, model, device) is None)
    if reason := why_not(name, model, device):
        there = ", ".join(available(model, device))
        raise UserError(f"the engine {name} cannot act with this agent: {reason}; try {there}")
    return name


def make(model: DecisionModel, name: str = "auto", device: torch.device | str = "cpu") -> Engine:
    """Return the engine that `choose` chooses; the model is put in eval mode and on the device."""
    device = torch.device(device)
    return _module(choose(model, name, device)).make(model.to(device).eval(), device)


def check_times(timestep: NDArray[np.int64], limit: int | None) -> None:
    """Raise UserError where a time step is beyond the embeddings that a model has."""
    if limit is not None and timestep.max(initial=0) >= limit:
        raise UserError(
            f"step {timestep.max()} of an episode is beyond the {limit} that the agent has an "
            "embedding for: train with a larger --model.timestep-embedding, or with 0"
        )


def _module(name: str) -> Any:
    if name not in _MODULES:
        raise UserError(f"no engine {name!r}; there is auto, {', '.join(_MODULES)}")
    return importlib.import_module(f"agents.acting.engines.{name}")
