"""The optimiser: AdamW, its parameter groups, its learning rate, and the layout of its state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import minrnn
from configs import OptimConfig


def make(
    groups: Iterable[dict[str, Any]], config: OptimConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW over groups of parameters, each of which has its `peak_lr`."""
    optimizer = torch.optim.AdamW(
        list(groups), lr=config.lr, betas=(0.9, 0.999), fused=device.type in ("cpu", "cuda")
    )
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, update: int) -> None:
    """Set the learning rates of `update` (from 0)."""
    share = schedule(config, update)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share


def schedule(config: OptimConfig, update: int) -> float:
    """Return the learning rate of `update` (from 0) as a fraction of the peak."""
    if update < config.warmup:
        return (update + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    progress = (update - config.warmup) / max(1, config.updates - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def param_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters for AdamW: no decay for gates, biases, norms and embeddings of time.

    A module names its gates in ``no_weight_decay()``; decaying them pulls every gate to one half.
    Parameters that require no gradient, such as those of target networks, are left out.
    """
    exempt: set[int] = set()
    for part in module.modules():
        named = dict(part.named_parameters())
        if isinstance(part, minrnn.SequenceMixer):
            exempt.update(id(named[name]) for name in part.no_weight_decay())
        if isinstance(part, nn.Embedding):
            exempt.add(id(part.weight))
    parameters = [p for p in module.parameters() if p.requires_grad]
    exempt.update(id(p) for p in parameters if p.ndim < 2)
    return [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]


def state_layout(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return what the optimiser keeps for a parameter once it was updated, as meta tensors."""
    probe = nn.Parameter(torch.zeros(2, 3))
    probe.grad = torch.zeros_like(probe)
    names = inspect.signature(type(optimizer)).parameters.keys() - {"fused"}
    options = {name: value for name, value in optimizer.defaults.items() if name in names}
    twin = type(optimizer)([probe], **options)
    twin.step()
    return {
        name: (parameter.detach() if value.shape == probe.shape else value).to("meta")
        for name, value in twin.state[probe].items()
    }
