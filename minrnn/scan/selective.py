# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
"""The selective scan of Mamba: a diagonal linear system that its input steers.

    h_t = exp(dt_t A) * h_{t-1} + dt_t u_t B_t,    y_t = sum_n C_{t,n} h_{t,n},

for each of D channels with N numbers in h. On a CPU with numba a kernel holds h for 16 steps at a
time, O(B T D) memory; elsewhere `minrnn.scan` runs over D N channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minrnn.scan import ops, scan
from minrnn.scan.backends import cpu_kernels

# Steps between the states that are kept for the backward pass: what it makes again of the h of a
# few channels stays near the core.
CHUNK = 16


def selective_scan(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y (B, T, D), and h after the last step (B, D, N).

    u, dt: (B, T, D), dt >= 0. a: (D, N), negative: A. b, c: (B, T, N). h0: (B, D, N) or None for
    zero. resets: (B, T) bool. All float32 or float64, and alike.
    """
    if u.device.type != "cpu" or not _has_kernels():
        return reference(u, dt, a, b, c, h0, resets)
    tensors = u, dt, a, b, c, h0, resets
    if ops._traced(tensors):  # pyright: ignore[reportPrivateUsage]
        y, last, _ = cast(Any, torch.ops.minrnn.selective_scan)(*tensors)
        return y, last
    return cast(Any, _Selective.apply)(*tensors)


def reference(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Do the same on any device, in O(B T D N) memory."""
    decay = (dt.unsqueeze(-1) * a).exp()
    entering = (dt * u).unsqueeze(-1) * b.unsqueeze(2)
    first = None if h0 is None else h0.flatten(1)
    h, last = scan(decay.flatten(2), entering.flatten(2), first, resets)
    y = (h.view_as(decay) * c.unsqueeze(2)).sum(-1)
    return y, last.view(len(u), *a.shape)


def _there() -> bool:
    return _kernels() is not None


# A compiler has to ask, not to look into how numba is imported.
_has_kernels: Callable[[], bool] = cast(Any, torch.compiler).assume_constant_result(_there)


@functools.cache
def _kernels() -> ModuleType | None:
    return cpu_kernels("selective")


class _Selective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> tuple[Tensor, Tensor]:
        y, last, points = cast(Any, _kernels()).forward(*tensors, any(ctx.needs_input_grad))
        ctx.save_for_backward(*tensors, points)
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        return *cast(Any, _kernels()).backward(*grad_outputs, *ctx.saved_tensors), None


@torch.library.custom_op("minrnn::selective_scan", mutates_args=())
def _op(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return cast(Any, _kernels()).forward(u, dt, a, b, c, h0, resets, True)


@_op.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, time, width = u.shape
    chunks = (time + CHUNK - 1) // CHUNK
    return (
        u.new_empty((batch, time, width)),
        u.new_empty((batch, *a.shape)),
        u.new_empty((batch, chunks, a.shape[1], width)),
    )


@torch.library.custom_op("minrnn::selective_scan_backward", mutates_args=())
def _op_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    points: Tensor,
) -> list[Tensor]:
    grads = cast(Any, _kernels()).backward(grad_y, grad_last, u, dt, a, b, c, h0, resets, points)
    return [grad for grad in grads if grad is not None]


@_op_backward.register_fake
def _(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    points: Tensor,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (u, dt, a, b, c, h0) if x is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Any) -> tuple[Any, ...]:
    op = cast(Any, torch.ops.minrnn.selective_scan_backward)
    grads = op(grad_y, grad_last, *ctx.saved_tensors)
    return *grads[:5], grads[5] if len(grads) > 5 else None, None


_op.register_autograd(_backward, setup_context=_setup_context)
