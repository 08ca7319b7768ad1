"""Engines: what runs the model's step while it acts, each a module that imports its own packages.

It has `make(model, device)`, and `why_not(model, device)`: why it cannot act here, or None.
"""

from __future__ import annotations

import importlib
from typing import Any, get_args

import torch

import configs
from agents.acting.engines.base import Engine
from agents.model.decision import DecisionModel
from envs.errors import UserError
from minrnn.registry import hint

NAMES: tuple[str, ...] = get_args(configs.Engine)[1:]  # best first
_AUTO = ("numba", "eager")  # those that start within seconds
SAME_FOR_ANY_ROWS = ("numba",)
"""Those in which a row's actions are the same, to the last bit, whatever rows are beside it."""


def available(model: DecisionModel, device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Return the names of the engines that work here for this model, best first."""
    return tuple(name for name in NAMES if why_not(name, model, device) is None)


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


def _module(name: str) -> Any:
    if name not in NAMES:
        raise UserError(f"no engine {name!r}{hint(name, ('auto', *NAMES))}")
    return importlib.import_module(f"agents.acting.engines.{name}")
