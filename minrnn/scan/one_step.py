"""The scan of a single step as a graph of plain torch, for exported files that others read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minrnn.scan.gates import coefficients


def wanted(inputs: Sequence[Tensor]) -> bool:
    """Return whether a step is being exported, whose graph must not contain ops of this library."""
    ask = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return inputs[0].shape[1] == 1 and not torch.is_grad_enabled() and ask is not None and ask()


def forward(
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> Tensor:
    """Compute h (B, 1, D) from inputs (B, 1, D); see `minrnn.scan.ops` for the arguments."""
    a, b = coefficients(gates, candidate, inputs)
    if h0 is None:
        return b
    before = a * h0[:, None]
    if resets is not None:
        fresh = torch.zeros_like(before) if init is None else a * init
        before = torch.where(resets[..., None], fresh, before)
    return before + b
