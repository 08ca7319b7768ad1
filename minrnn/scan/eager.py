# pyright: reportIncompatibleMethodOverride=false
"""The scans in plain torch, on any device, with hand-made gradients.

Linear space, accumulated in float32 (float64 for float64). The gates are computed for all time
steps at once, before the loop, and again in the backward pass instead of being saved.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minrnn.interface import state_dtype
from minrnn.scan.loop import scan_


class Scan(torch.autograd.Function):
    """h_t = a_t * h_{t-1} + b_t. Returns h (B, T, D) and a copy of its last step (B, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        h0: Tensor | None,
        resets: Tensor | None,
        init: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the states."""
        dtype = state_dtype(torch.promote_types(a.dtype, b.dtype))
        h = b.to(dtype, memory_format=torch.contiguous_format, copy=True)
        _fill(a.to(dtype), h, h0, resets, init)
        ctx.save_for_backward(a, h, h0, resets, init)
        ctx.b_dtype = b.dtype
        ctx.set_materialize_grads(False)
        return h, h[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the tensor arguments."""
        a, h, h0, resets, init = ctx.saved_tensors
        decay = a.to(h.dtype)
        g = _adjoint(decay, h, grad_outputs, resets)
        grad_a = _previous(h, h0, resets, init).mul_(g).to(a.dtype)
        grad_h0, grad_init = _edges(ctx, decay, g, h0, resets, init)
        return grad_a, g.to(ctx.b_dtype), grad_h0, None, grad_init


class MinGRUScan(torch.autograd.Function):
    """The gates of minGRU and the scan. k, c: (B, T, H) pre-activations of gate and candidate."""

    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        c: Tensor,
        h0: Tensor | None,
        resets: Tensor | None,
        init: Tensor | None,
        kind: str,
    ) -> tuple[Tensor, Tensor]:
        """Compute the states."""
        dtype = state_dtype(torch.promote_types(k.dtype, c.dtype))
        gate = k.to(dtype)
        h = _candidate(c.to(dtype), kind).mul_(torch.sigmoid(gate))
        _fill(torch.neg(gate).sigmoid_(), h, h0, resets, init)
        ctx.save_for_backward(k, c, h, h0, resets, init)
        ctx.kind = kind
        ctx.set_materialize_grads(False)
        return h, h[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the tensor arguments."""
        k, c, h, h0, resets, init = ctx.saved_tensors
        gate = k.to(h.dtype)
        value = _candidate(c.to(h.dtype), ctx.kind)
        update, decay = torch.sigmoid(gate), torch.neg(gate).sigmoid_()
        g = _adjoint(decay, h, grad_outputs, resets)
        grad_h0, grad_init = _edges(ctx, decay, g, h0, resets, init)
        previous = _previous(h, h0, resets, init)
        grad_b = g.mul_(update)
        grad_k = torch.sub(value, previous, out=previous).mul_(grad_b).mul_(decay)
        grad_c = _candidate_gradient(grad_b, value, ctx.kind)
        return grad_k.to(k.dtype), grad_c.to(c.dtype), grad_h0, None, grad_init, None


class MinLSTMScan(torch.autograd.Function):
    """The gates of minLSTM and the scan. f, i, c: (B, T, H) pre-activations."""

    @staticmethod
    def forward(
        ctx: Any,
        f: Tensor,
        i: Tensor,
        c: Tensor,
        h0: Tensor | None,
        resets: Tensor | None,
        init: Tensor | None,
        kind: str,
        normalize: bool,
    ) -> tuple[Tensor, Tensor]:
        """Compute the states."""
        dtype = state_dtype(torch.promote_types(torch.promote_types(f.dtype, i.dtype), c.dtype))
        decay, update = _lstm_gates(f.to(dtype), i.to(dtype), normalize)
        h = _candidate(c.to(dtype), kind).mul_(update)
        _fill(decay, h, h0, resets, init)
        ctx.save_for_backward(f, i, c, h, h0, resets, init)
        ctx.kind, ctx.normalize = kind, normalize
        ctx.set_materialize_grads(False)
        return h, h[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the tensor arguments."""
        f, i, c, h, h0, resets, init = ctx.saved_tensors
        forget, enter = f.to(h.dtype), i.to(h.dtype)
        decay, update = _lstm_gates(forget, enter, ctx.normalize)
        value = _candidate(c.to(h.dtype), ctx.kind)
        g = _adjoint(decay, h, grad_outputs, resets)
        grad_h0, grad_init = _edges(ctx, decay, g, h0, resets, init)
        grad_f = _previous(h, h0, resets, init)
        grad_b = g * update
        if ctx.normalize:
            # Both gates hang on the odds log F - log I: d decay = -d update = decay * update.
            grad_odds = grad_f.sub_(value).mul_(grad_b).mul_(decay)
            grad_i = torch.sigmoid(-enter).mul_(grad_odds).neg_()
            grad_f = grad_odds.mul_(torch.neg(forget).sigmoid_())
        else:
            grad_f = grad_f.mul_(g).mul_(decay).mul_(torch.neg(forget).sigmoid_())
            grad_i = torch.neg(enter).sigmoid_().mul_(grad_b).mul_(value)
        grad_c = _candidate_gradient(grad_b, value, ctx.kind)
        inputs = grad_f.to(f.dtype), grad_i.to(i.dtype), grad_c.to(c.dtype)
        return *inputs, grad_h0, None, grad_init, None, None


def _fill(
    a: Tensor, h: Tensor, h0: Tensor | None, resets: Tensor | None, init: Tensor | None
) -> None:
    # Turn h, which holds b, into the states. Without h0 the sequence starts from init, or zero.
    start = h0 if h0 is not None else init
    if start is not None:
        scan_(a, h, start.to(h.dtype).expand_as(h[:, 0]), resets, _like(init, h))
    else:
        scan_(a[:, 1:], h[:, 1:], h[:, 0], None if resets is None else resets[:, 1:])


def _adjoint(
    a: Tensor, h: Tensor, grads: tuple[Tensor | None, ...], resets: Tensor | None
) -> Tensor:
    # The gradient by b_t: g_t = grad_h_t + a_{t+1} g_{t+1}.
    grad_h, grad_last = grads
    if grad_h is None:
        g = torch.zeros_like(h)
    else:
        g = grad_h.to(h.dtype, memory_format=torch.contiguous_format, copy=True)
    if grad_last is not None:
        g[:, -1] += grad_last
    rest = None if resets is None else resets[:, 1:]
    scan_(a[:, 1:], g[:, :-1], g[:, -1], rest, reverse=True)
    return g


def _previous(h: Tensor, h0: Tensor | None, resets: Tensor | None, init: Tensor | None) -> Tensor:
    # h_{t-1} as step t saw it, in a new buffer.
    previous = torch.empty_like(h)
    previous[:, 1:] = h[:, :-1]
    start = h0 if h0 is not None else init
    previous[:, 0] = 0.0 if start is None else start.to(h.dtype)
    if resets is None:
        return previous
    mask = resets.unsqueeze(-1)
    if init is None:
        return previous.masked_fill_(mask, 0.0)
    return torch.where(mask, init.to(h.dtype), previous)


def _edges(
    ctx: Any, a: Tensor, g: Tensor, h0: Tensor | None, resets: Tensor | None, init: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    # The gradients by h0 (B, D) and by init (D,).
    grad_h0 = grad_init = None
    if h0 is not None:
        grad_h0 = a[:, 0] * g[:, 0]
        if resets is not None:
            grad_h0 = grad_h0.masked_fill(resets[:, :1], 0.0)
        grad_h0 = grad_h0.to(h0.dtype)
    if init is not None:
        if resets is None:
            grad_init = torch.zeros_like(init) if h0 is not None else (a[:, 0] * g[:, 0]).sum(0)
        else:
            starts = resets.clone()
            starts[:, 0] |= h0 is None
            grad_init = (a * g).masked_fill_(~starts.unsqueeze(-1), 0.0).sum((0, 1))
        grad_init = grad_init.to(init.dtype)
    return grad_h0, grad_init


def _lstm_gates(f: Tensor, i: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    if not normalize:
        return torch.sigmoid(f), torch.sigmoid(i)
    odds = F.logsigmoid(f).sub_(F.logsigmoid(i))
    return torch.sigmoid(odds), odds.neg_().sigmoid_()


def _candidate(c: Tensor, kind: str) -> Tensor:
    # Always a new tensor. g is the larger of its two branches, everywhere.
    if kind == "g":
        value = torch.sigmoid(c)
        return torch.maximum(value, c + 0.5, out=value)
    return torch.tanh(c) if kind == "tanh" else c.clone()


def _candidate_gradient(grad: Tensor, value: Tensor, kind: str) -> Tensor:
    # grad * derivative, the derivative from the candidate's value, which is overwritten.
    if kind == "g":
        # 1 where value >= 0.5, else value * (1 - value). Masks would cost ten times the arithmetic.
        right = torch.ge(value, 0.5, out=torch.empty_like(value))
        left = value.clamp_(max=0.5)  # left - left ** 2 is 0.25 at the clamp
        return right.mul_(0.75).add_(left).addcmul_(left, left, value=-1.0).mul_(grad)
    if kind == "tanh":
        return grad.addcmul(grad * value, value, value=-1.0)
    return grad


def _like(x: Tensor | None, h: Tensor) -> Tensor | None:
    return None if x is None else x.to(h.dtype)
