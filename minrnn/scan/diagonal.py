# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
"""A diagonal linear system with constant complex decays, over packed sequences.

    h_t = lambda * h_{t-1} + u_t,    y_t = Re(sum_n weight_n h_{t,n}),

for each of D channels with N numbers in h. On a CPU with numba a kernel holds h for 32 steps at a
time; elsewhere chunks of time are products of matrices (`minrnn.scan.diagonal_eager`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minrnn.scan import diagonal_eager, ops
from minrnn.scan.backends import cpu_kernels

# Steps between the states that are kept for the backward pass: 4 N numbers for a channel and
# chunk, while what it makes again of the h of a few channels stays near the core.
CHUNK = 32


def diagonal_scan(
    u: Tensor,
    decay: Tensor,
    rate: Tensor,
    angle: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y (B, T, D), and h after the last step (B, D, N, 2), real and imaginary parts.

    u: (B, T, D). decay: (D, N, 2), which is lambda = exp(rate + i angle), both (D, N), with rate
    <= 0. weight: (D, N, 2). h0: (B, D, N, 2) or None for zero. resets: (B, T) bool. All float32 or
    float64, and alike.
    """
    if u.device.type != "cpu" or not _has_kernels():
        return diagonal_eager.diagonal_scan(u, decay, rate, angle, weight, h0, resets)
    tensors = u, decay, weight, h0, resets
    if ops._traced(tensors):  # pyright: ignore[reportPrivateUsage]
        y, last, _ = cast(Any, torch.ops.minrnn.diagonal_scan)(*tensors)
        return y, last
    return cast(Any, _Diagonal.apply)(*tensors)


def _there() -> bool:
    return _kernels() is not None


# A compiler has to ask, not to look into how numba is imported.
_has_kernels: Callable[[], bool] = cast(Any, torch.compiler).assume_constant_result(_there)


@functools.cache
def _kernels() -> ModuleType | None:
    return cpu_kernels("diagonal")


class _Diagonal(torch.autograd.Function):
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


@torch.library.custom_op("minrnn::diagonal_scan", mutates_args=())
def _op(
    u: Tensor, decay: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return cast(Any, _kernels()).forward(u, decay, weight, h0, resets, True)


@_op.register_fake
def _(
    u: Tensor, decay: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, time, width = u.shape
    chunks = (time + CHUNK - 1) // CHUNK
    return (
        u.new_empty((batch, time, width)),
        u.new_empty((batch, *decay.shape)),
        u.new_empty((batch, chunks, 2, decay.shape[1], width)),
    )


@torch.library.custom_op("minrnn::diagonal_scan_backward", mutates_args=())
def _op_backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    decay: Tensor,
    weight: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    points: Tensor,
) -> list[Tensor]:
    grads = cast(Any, _kernels()).backward(grad_y, grad_last, u, decay, weight, h0, resets, points)
    return [grad for grad in grads if grad is not None]


@_op_backward.register_fake
def _(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    decay: Tensor,
    weight: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    points: Tensor,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (u, decay, weight, h0) if x is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: Any) -> tuple[Any, ...]:
    op = cast(Any, torch.ops.minrnn.diagonal_scan_backward)
    grads = op(grad_y, grad_last, *ctx.saved_tensors)
    return *grads[:3], grads[3] if len(grads) > 3 else None, None


_op.register_autograd(_backward, setup_context=_setup_context)
