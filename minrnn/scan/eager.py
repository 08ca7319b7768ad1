"""The backend in plain torch: any device, any dtype, no compiler.

The gates are computed for all time steps at once, before the loop over time, and again in the
backward pass. See `minrnn.scan.ops` for the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.interface import state_dtype
from minrnn.scan.loop import scan_


def forward(
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> Tensor:
    """Compute the states."""
    dtype = state_dtype(inputs[0].dtype)
    decay, h = _decay_and_input(gates, candidate, [x.to(dtype) for x in inputs])
    if h0 is not None or init is not None:
        start = torch.zeros_like(h[:, 0]) if h0 is None else h0
        scan_(decay, h, start, resets, init)
    else:
        scan_(decay[:, 1:], h[:, 1:], h[:, 0], None if resets is None else resets[:, 1:])
    return h


def backward(
    gates: str,
    candidate: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    inputs: Sequence[Tensor],
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Compute the gradients of inputs, h0 and init."""
    wide = [x.to(h.dtype) for x in inputs]
    if gates == "linear":
        decay, update, value = wide[0], None, None
    else:
        decay, update = _gates(gates, wide)
        value = _candidate(wide[-1], candidate)
    g = _adjoint(decay, h, grad_h, grad_last, resets)
    grad_h0, grad_init = _edges(decay, g, h0, resets, init)
    previous = _previous(h, h0, resets, init)
    if update is None or value is None:
        grads = [previous.mul_(g), g]
    else:
        through = _gate_gradients(gates, wide, decay, update, value, previous, g)
        grads = [*through, _candidate_gradient(g.mul_(update), wide[-1], value, candidate)]
    typed = [grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True)]
    return typed, grad_h0, grad_init


def _decay_and_input(gates: str, kind: str, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    # a and b of the recurrence, b in a buffer of its own.
    if gates == "linear":
        return inputs[0], inputs[1].clone(memory_format=torch.contiguous_format)
    decay, update = _gates(gates, inputs)
    return decay, update.mul_(_candidate(inputs[-1], kind))


def _gates(gates: str, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    # Forget gate and input gate, both new and contiguous.
    first = inputs[0].contiguous()
    if gates == "mingru":
        return torch.neg(first).sigmoid_(), torch.sigmoid(first)
    second = inputs[1].contiguous()
    if gates == "minlstm-raw":
        return torch.sigmoid(first), torch.sigmoid(second)
    odds = F.logsigmoid(first).sub_(F.logsigmoid(second))
    return torch.sigmoid(odds), odds.neg_().sigmoid_()


def _gate_gradients(
    gates: str,
    inputs: list[Tensor],
    decay: Tensor,
    update: Tensor,
    value: Tensor,
    previous: Tensor,
    g: Tensor,
) -> list[Tensor]:
    # The gradients of the gates' pre-activations; overwrites previous.
    if gates == "mingru":
        return [torch.sub(value, previous, out=previous).mul_(update).mul_(g).mul_(decay)]
    forget, enter = (torch.neg(x).sigmoid_() for x in inputs[:2])  # 1 - F, 1 - I
    if gates == "minlstm-raw":
        grad_i = enter.mul_(g).mul_(update).mul_(value)
        return [previous.mul_(g).mul_(decay).mul_(forget), grad_i]
    # Both gates depend on log F - log I alone: d decay = -d update = decay * update.
    grad_odds = previous.sub_(value).mul_(update).mul_(g).mul_(decay)
    return [forget.mul_(grad_odds), enter.mul_(grad_odds).neg_()]


def _adjoint(
    a: Tensor, h: Tensor, grad_h: Tensor | None, grad_last: Tensor | None, resets: Tensor | None
) -> Tensor:
    # The gradient by b_t: g_t = grad_h_t + a_{t+1} g_{t+1}.
    if grad_h is None:
        g = torch.zeros_like(h)
    else:
        g = grad_h.clone(memory_format=torch.contiguous_format)
    if grad_last is not None:
        g[:, -1] += grad_last
    rest = None if resets is None else resets[:, 1:]
    scan_(a[:, 1:], g[:, :-1], g[:, -1], rest, reverse=True)
    return g


def _previous(h: Tensor, h0: Tensor | None, resets: Tensor | None, init: Tensor | None) -> Tensor:
    # h_{t-1} as step t read it, in a new buffer.
    previous = torch.empty_like(h)
    previous[:, 1:] = h[:, :-1]
    previous[:, 0] = 0.0 if h0 is None else h0
    if resets is None:
        return previous
    mask = resets.unsqueeze(-1)
    if init is None:
        return previous.masked_fill_(mask, 0.0)
    return torch.where(mask, init, previous)


def _edges(
    a: Tensor, g: Tensor, h0: Tensor | None, resets: Tensor | None, init: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    # The gradients by h0 (B, D) and by init (D,).
    grad_h0 = grad_init = None
    if h0 is not None:
        grad_h0 = a[:, 0] * g[:, 0]
        if resets is not None:
            grad_h0 = grad_h0.masked_fill_(resets[:, :1], 0.0)
    if init is not None:
        if resets is None:
            grad_init = torch.zeros_like(init)
        else:
            grad_init = (a * g).masked_fill_(~resets.unsqueeze(-1), 0.0).sum((0, 1))
    return grad_h0, grad_init


def _candidate(c: Tensor, kind: str) -> Tensor:
    # A new tensor, but for "linear". g is the larger of its two branches, everywhere.
    if kind == "g":
        value = torch.sigmoid(c)
        return torch.maximum(value, c + 0.5, out=value)
    return torch.tanh(c) if kind == "tanh" else c


def _candidate_gradient(grad: Tensor, c: Tensor, value: Tensor, kind: str) -> Tensor:
    # grad * derivative, the derivative from c and the candidate's value, which is overwritten.
    if kind == "g":
        # 1 where c >= 0, else value * (1 - value). Masks would cost ten times the arithmetic.
        right = torch.ge(c, 0.0, out=torch.empty_like(value))
        left = value.clamp_(max=0.5)  # left - left ** 2 is 0.25 at the clamp
        return right.mul_(0.75).add_(left).addcmul_(left, left, value=-1.0).mul_(grad)
    if kind == "tanh":
        return grad.addcmul(grad * value, value, value=-1.0)
    return grad
