# pyright: reportUnknownMemberType=false
"""The recurrence of sLSTM over a batch of packed sequences: a true one, step by step.

Compiled on a CPU with numba, else a loop in torch. d units in each of H heads:

x: (B, T, H, 4, d), what the pre-activations i, f, z, o get from the input. r: (H, d, 4, d), from
y_{t-1}. start: (B, 4, H, d), y, c, n, m before the first step. resets: (B, T) bool: the state is
zero before these steps. All of them float32, or all float64. The equations are those of
`minrnn.cells.slstm`.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.scan.backends import cpu_kernels


def slstm_scan(
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y (B, T, H, d), and y, c, n, m after the last step (B, 4, H, d)."""
    if x.device.type == "cpu" and _kernels() is not None:
        op = cast(Any, torch.ops.minrnn.slstm)
        y, last, *_ = op(x, r, start, resets)
        return y, last
    return slstm_loop(x, r, start, resets)


def slstm_loop(
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `slstm_scan` by a loop over time, in torch."""
    state, outputs = start, list[Tensor]()
    for t in range(x.shape[1]):
        if resets is not None:
            state = state.masked_fill(resets[:, t].view(-1, 1, 1, 1), 0.0)
        state = slstm_step(x[:, t], r, state)
        outputs.append(state[:, 0])
    return torch.stack(outputs, 1), state


def slstm_step(x: Tensor, r: Tensor, state: Tensor) -> Tensor:
    """Return the state (B, 4, H, d) after one step. x: (B, H, 4, d)."""
    y, c, n, m = state.unbind(1)
    recurrent = y.unsqueeze(-2) @ r.flatten(2)  # (B, H, 1, 4 d)
    i, f, z, o = (x + recurrent.view_as(x)).unbind(2)
    carried = F.logsigmoid(f) + m.masked_fill(n == 0, -torch.inf)
    m = torch.maximum(i, carried)
    forget, enter = torch.exp(carried - m), torch.exp(i - m)
    c = torch.addcmul(enter * torch.tanh(z), forget, c)
    n = torch.addcmul(enter, forget, n)
    return torch.stack([torch.sigmoid(o) * c / n, c, n, m], 1)


@functools.cache
def _kernels() -> ModuleType | None:
    return cpu_kernels("slstm")


@torch.library.custom_op("minrnn::slstm", mutates_args=())
def _op(
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kernels = _kernels()
    assert kernels is not None
    y, rest, raw = kernels.forward(x, r, start, resets)
    return y, torch.cat([y[:, -1:], rest[:, -1]], 1), rest, raw


@torch.library.custom_op("minrnn::slstm_backward", mutates_args=())
def _op_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    r: Tensor,
    start: Tensor,
    resets: Tensor | None,
    y: Tensor,
    rest: Tensor,
    raw: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels()
    assert kernels is not None
    grad_raw, grad_start = kernels.backward(grad_y, grad_last, r, start, resets, y, rest, raw)
    before = torch.cat([start[:, :1], y[:, :-1]], 1)
    if resets is not None:
        before = before.masked_fill(resets[..., None, None], 0.0)
    rows, columns = before.flatten(0, 1), grad_raw.flatten(3).flatten(0, 1)  # (B T, H, ...)
    with torch.autocast("cpu", enabled=False):
        grad_r = rows.permute(1, 2, 0) @ columns.transpose(0, 1)
    return grad_raw, grad_r.view(r.shape), grad_start


@_op.register_fake
def _(
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, heads, gates, size = x.shape
    return (
        x.new_empty(batch, length, heads, size),
        x.new_empty(batch, 4, heads, size),
        x.new_empty(batch, length, 3, heads, size),
        x.new_empty(batch, length, heads, gates, size),
    )


@_op_backward.register_fake
def _(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    r: Tensor,
    start: Tensor,
    resets: Tensor | None,
    y: Tensor,
    rest: Tensor,
    raw: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return raw.new_empty(raw.shape), r.new_empty(r.shape), start.new_empty(start.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, r, start, resets = inputs
    y, _, rest, raw = output
    ctx.save_for_backward(r, start, resets, y, rest, raw)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    # Nobody sees c, n and m on the way, nor the pre-activations.
    grads = torch.ops.minrnn.slstm_backward(grad_y, grad_last, *ctx.saved_tensors)
    return *grads, None


_op.register_autograd(_backward, setup_context=_setup_context)
