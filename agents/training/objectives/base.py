"""The base of all objectives, and their registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from agents.model.decision import DecisionModel
from agents.training.optimiser import param_groups
from envs.data.sampler import Batch
from envs.errors import UserError
from minrnn.registry import hint, same_class


class Objective(nn.Module):
    """A loss, with all that is learned for it: `model`, which acts, and networks of its own.

    The trainer updates and saves whatever parameters and buffers the objective has (targets,
    counts); options are keyword arguments after `model`. Ranks share gradients and metrics, not
    buffers: change those in `after_update`, from what is the same on all ranks.
    """

    transitions = False
    """Whether its batches have reward, next_obs and terminated, which they otherwise lack."""

    def __init__(self, model: DecisionModel) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Batch[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a mean over the batch's real steps, and metrics (scalars) by name.

        A metric may be missing in some updates; trainer.RESERVED has the trainer's own names.
        The batch's fields are tensors on the trainer's device. Compiled by torch.compile on a GPU.
        """
        raise NotImplementedError

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups; a group's `lr` replaces the configuration's peak."""
        return param_groups(self, weight_decay)

    def after_update(self) -> None:
        """Do what follows each optimiser step, such as moving a target network."""


OBJECTIVES: dict[str, type[Objective]] = {}


def register(name: str) -> Callable[[type[Objective]], type[Objective]]:
    """Return a decorator that adds an objective to OBJECTIVES; ValueError for another's name."""

    def add(objective: type[Objective]) -> type[Objective]:
        if not same_class(OBJECTIVES.get(name, objective), objective):
            raise ValueError(f"the objective name {name!r} is taken by {OBJECTIVES[name]!r}")
        OBJECTIVES[name] = objective
        return objective

    return add


def make(name: str, model: DecisionModel, options: Mapping[str, Any]) -> Objective:
    """Return the objective of that name; UserError where there is none, or an option is wrong."""
    if name not in OBJECTIVES:
        raise UserError(f"no --optim.objective {name!r}{hint(name, tuple(OBJECTIVES))}")
    try:
        inspect.signature(OBJECTIVES[name]).bind(model, **options)
    except TypeError as error:
        raise UserError(f"--optim.objective-options of {name}: {error}") from None
    return OBJECTIVES[name](model, **options)
