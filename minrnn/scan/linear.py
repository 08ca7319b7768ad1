# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
"""The scan as torch.func sees it: gates in plain torch, and a linear scan that is all there is.

What the linear scan's derivatives are made of is linear scans: the backward pass runs one from the
last step to the first, forward mode runs one over the tangents, and vmap adds rows to the batch. So
they can be nested at will.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.compiling import traced
from minrnn.derivatives import batched
from minrnn.scan.backends import load
from minrnn.scan.gates import coefficients


def run(
    backend: str,
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Do what `minrnn.scan.ops.run` does."""
    a, b = coefficients(gates, candidate, inputs)
    # What a state adds to a step is added to its input; elsewhere the decay is not read.
    if init is not None and resets is not None:
        mask = resets.unsqueeze(-1)
        b = b + torch.where(mask, a, 0.0) * init
    if h0 is not None:
        first, more = a[:, 0], h0
        if resets is not None:
            mask = resets[:, :1]
            first, more = first.masked_fill(mask, 0.0), more.masked_fill(mask, 0.0)
        begun = (b[:, 0] + first * more).unsqueeze(1)
        b = begun if b.shape[1] == 1 else torch.cat([begun, b[:, 1:]], 1)
    h = _linear(a, b, resets, backend)
    return h, h[:, -1].clone()


def _linear(a: Tensor, b: Tensor, resets: Tensor | None, backend: str) -> Tensor:
    # h_t = a_t * h_{t-1} + b_t from h = 0, which it is again at resets.
    # A compiler knows no Function with a jvp or a vmap, and batched gradients know no vmap.
    if torch.compiler.is_compiling() or batched((a, b)):
        return _doubled(a, b, resets)
    return cast(Any, _Linear.apply)(a, b, resets, backend)


def _doubled(a: Tensor, b: Tensor, resets: Tensor | None) -> Tensor:
    # The same in plain torch: after each pass a step has seen twice as many.
    cut = None if resets is None else resets.unsqueeze(-1)
    a = a if cut is None else a.masked_fill(cut, 0.0)
    h, reach = b, 1
    while reach < b.shape[1]:
        before = h[:, :-reach]
        if cut is not None:  # masked, as 0 * NaN is NaN
            before = before.masked_fill(cut[:, reach:], 0.0)
            cut = torch.cat([cut[:, :reach], cut[:, reach:] | cut[:, :-reach]], 1)
        h = torch.cat([h[:, :reach], torch.addcmul(h[:, reach:], a[:, reach:], before)], 1)
        a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
        reach *= 2
    return h


def _by_before(x: Tensor, h: Tensor, resets: Tensor | None) -> Tensor:
    # x_t * h_{t-1} where step t read that. Both factors may be NaN elsewhere, and 0 * NaN is NaN.
    first = torch.zeros_like(h[:, :1])
    if resets is None:
        return torch.cat([first, x[:, 1:] * h[:, :-1]], 1)
    mask = resets[:, 1:].unsqueeze(-1)
    inside = x[:, 1:] * h[:, :-1].masked_fill(mask, 0.0)
    return torch.cat([first, inside.masked_fill(mask, 0.0)], 1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, resets: Tensor | None, backend: str) -> Tensor:
        if traced((a, b, resets)):
            op = cast(Any, torch.ops.minrnn.scan)
            return op([a, b], None, resets, None, "linear", "linear", backend)[0]
        kernels = load(backend, a.device)
        return kernels.forward("linear", "linear", (a, b), None, resets, None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, _, resets, ctx.backend = inputs
        ctx.save_for_backward(a, resets, output)
        ctx.save_for_forward(a, resets, output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        a, resets, h = ctx.saved_tensors
        # The gradient by b: g_t = grad_t + a_{t+1} * g_{t+1}, from the last step to the first.
        decay = torch.cat([a[:, :1], a[:, 1:].flip(1)], 1)
        cut = resets
        if resets is not None:
            cut = torch.cat([torch.zeros_like(resets[:, :1]), resets[:, 1:].flip(1)], 1)
        g = _linear(decay, grad_outputs[0].flip(1), cut, ctx.backend).flip(1)
        return _by_before(g, h, resets) if ctx.needs_input_grad[0] else None, g, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        a, resets, h = ctx.saved_tensors
        by_a, b = (torch.zeros_like(a) if x is None else x for x in tangents[:2])
        return _linear(a, _by_before(by_a, h, resets) + b, resets, ctx.backend)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor, resets: Any, backend: str
    ) -> tuple[Tensor, int]:
        count = info.batch_size

        def rows(x: Tensor | None, dim: int | None) -> Tensor | None:
            if x is not None:
                x = x.expand(count, *x.shape) if dim is None else x.movedim(dim, 0)
                x = x.flatten(0, 1)
            return x

        given = map(rows, (a, b, resets), in_dims)
        h = cast(Any, _linear)(*given, backend)
        return h.view(count, len(h) // count, *h.shape[1:]), 0
