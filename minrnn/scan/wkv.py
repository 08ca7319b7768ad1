# pyright: reportUnknownMemberType=false
"""RWKV's averages over a batch of packed sequences, weighted by e^k, decaying by a constant.

k, v: (B, T, D). w (D,): the logarithm of the decay. u (D,): added to the k of the step that is
read. start: (B, 3, D), a, b, p before the first step; b = 0 where nothing is held. resets: (B, T)
bool: nothing is held before these steps. All of them float32, or all float64. The equations are
those of `minrnn.cells.rwkv`. Compiled on a CPU with numba, else made of the scans of this package.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.scan import scan
from minrnn.scan.backends import cpu_kernels
from minrnn.scan.maximum import running_max


def wkv_scan(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the averages o (B, T, D), and a, b, p after the last step (B, 3, D)."""
    if k.device.type == "cpu" and _kernels() is not None:
        op = cast(Any, torch.ops.minrnn.wkv)
        o, last, _ = op(k, v, w, u, start, resets)
        return o, last
    return wkv_of_scans(k, v, w, u, start, resets)


def wkv_of_scans(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `wkv_scan` by a running maximum and two linear scans."""
    if resets is not None:
        start = start.masked_fill(resets[:, :1].unsqueeze(-1), 0.0)
    a0, b0, p0 = start.unbind(1)
    p0 = p0.masked_fill(b0 == 0, -torch.inf)
    p, last = running_max(w, k, p0, resets)
    before = torch.cat([p0.unsqueeze(1), p[:, :-1]], 1)
    decay, enter = torch.exp((before + w - p).clamp(max=0.0)), torch.exp(k - p)
    a, a_last = scan(decay, enter * v, a0, resets)
    b, b_last = scan(decay, enter, b0, resets)
    if resets is not None:
        before = before.masked_fill(resets.unsqueeze(-1), -torch.inf)
    o = wkv_read(shifted(a, a0, resets), shifted(b, b0, resets), before, u + k, v)
    # One, but for the gradient: the scale of what is returned depends on the input.
    rescale = torch.exp(p[:, -1] - last)
    return o, torch.stack([a_last * rescale, b_last * rescale, last], 1)


def wkv_step(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return o, a, b and p after one step, (B, D) as all but w and u."""
    p = p.masked_fill(b == 0, -torch.inf)
    o = wkv_read(a, b, p, u + k, v)
    carried = p + w
    p = torch.maximum(carried, k)
    decay, enter = torch.exp(carried - p), torch.exp(k - p)
    return o, torch.addcmul(enter * v, decay, a), torch.addcmul(enter, decay, b), p


def wkv_read(a: Tensor, b: Tensor, p: Tensor, now: Tensor, v: Tensor) -> Tensor:
    """Return the average of what a, b, p hold and of v with the weight e^now."""
    q = torch.maximum(p, now).detach()  # the scale cancels, and needs no gradient
    old, new = torch.exp(p - q), torch.exp(now - q)
    return torch.addcmul(new * v, old, a) / torch.addcmul(new, old, b)


def shifted(x: Tensor, first: Tensor, resets: Tensor | None) -> Tensor:
    """Return what came before each step: first (B, D), then x; zero where an episode starts."""
    before = torch.cat([first.unsqueeze(1), x[:, :-1]], 1)
    return before if resets is None else before.masked_fill(resets.unsqueeze(-1), 0.0)


@functools.cache
def _kernels() -> ModuleType | None:
    return cpu_kernels("wkv")


@torch.library.custom_op("minrnn::wkv", mutates_args=())
def _op(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels()
    assert kernels is not None
    o, states = kernels.forward(k, v, w, u, start, resets)
    return o, states[:, -1].clone(), states


@torch.library.custom_op("minrnn::wkv_backward", mutates_args=())
def _op_backward(
    grad_o: Tensor | None,
    grad_last: Tensor | None,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    start: Tensor,
    resets: Tensor | None,
    o: Tensor,
    states: Tensor,
) -> list[Tensor]:
    kernels = _kernels()
    assert kernels is not None
    return kernels.backward(grad_o, grad_last, k, v, w, u, start, resets, o, states)


@_op.register_fake
def _(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, width = k.shape
    states = k.new_empty(batch, length, 3, width)
    return k.new_empty(k.shape), start.new_empty(start.shape), states


@_op_backward.register_fake
def _(
    grad_o: Tensor | None,
    grad_last: Tensor | None,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    start: Tensor,
    resets: Tensor | None,
    o: Tensor,
    states: Tensor,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (k, v, w, u, start)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    o, _, states = output
    ctx.save_for_backward(*inputs, o, states)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_o: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    # Nobody sees the states on the way.
    grads = torch.ops.minrnn.wkv_backward(grad_o, grad_last, *ctx.saved_tensors)
    return *grads, None


_op.register_autograd(_backward, setup_context=_setup_context)
