# pyright: reportIncompatibleMethodOverride=false
"""Scaled dot-product attention by torch's kernels, with derivatives of every order and kind."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from minrnn.derivatives import differentiated, gradients, transformed


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Do as F.scaled_dot_product_attention, whose kernels have a first derivative alone.

    q, k, v: (B, H, T, D). mask: (..., T, T), bool, or of the dtype of q and added to the scores.
    """
    if transformed():
        return _reference(q, k, v, mask)[0]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or mask.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, mask)
    return cast(Any, _Attend).apply(q, k, v, mask)


def _reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor]:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    seen = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (seen.softmax(-1) @ v,)


class _Attend(torch.autograd.Function):
    """Keeps torch's graph of its kernel, which frees what it saved after the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.graph = _graph(q, k, v, mask)
        return ctx.graph[1].detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        if differentiated(grad_outputs):
            return tuple(gradients(_reference, ctx.saved_tensors, grad_outputs))
        graph, ctx.graph = ctx.graph, None
        leaves, y = graph or _graph(*ctx.saved_tensors)
        return *torch.autograd.grad(y, leaves, grad_outputs), None


def _graph(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    with torch.enable_grad():
        return [q, k, v], F.scaled_dot_product_attention(q, k, v, mask)
