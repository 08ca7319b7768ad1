# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
"""A causal depthwise convolution over packed sequences: one pass over memory on a CPU with numba.

y_t = bias + sum_j weight[:, W - 1 - j] * x_{t-j}, for j < W and as far as the episode goes back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minrnn.scan import ops
from minrnn.scan.backends import cpu_kernels


def short_conv(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> Tensor:
    """Return y (B, T, D).

    x: (B, T, D). weight: (D, W). bias: (D,). past: (B, W - 1, D), the inputs before, or None for
    none. resets: (B, T) bool. All float32 or float64, and alike.
    """
    if x.device.type != "cpu" or not _has_kernels():
        return reference(x, weight, bias, past, resets)
    tensors = x, weight, bias, past, resets
    if ops._traced(tensors):  # pyright: ignore[reportPrivateUsage]
        return cast(Any, torch.ops.minrnn.short_conv)(*tensors)
    return cast(Any, _ShortConv.apply)(*tensors)


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> Tensor:
    """Do the same on any device, one tap after the other."""
    batch, length, dim = x.shape
    before = weight.shape[1] - 1
    seen = torch.cat([x.new_zeros(batch, before, dim) if past is None else past, x], 1)
    taps = weight.t().contiguous()
    y = torch.addcmul(bias, x, taps[before])
    if resets is None:
        for tap in range(before):
            y = torch.addcmul(y, seen[:, tap : tap + length], taps[tap])
        return y
    cut = torch.zeros_like(resets)
    resets = torch.cat([resets.new_zeros(batch, before), resets], 1)
    for tap in reversed(range(before)):
        # A reset lies between x_t and what this tap meets: after that, up to x_t.
        cut = cut | resets[:, tap + 1 : tap + 1 + length]
        met = seen[:, tap : tap + length].masked_fill(cut.unsqueeze(-1), 0.0)
        y = torch.addcmul(y, met, taps[tap])
    return y


def _there() -> bool:
    return _kernels() is not None


# A compiler has to ask, not to look into how numba is imported.
_has_kernels: Callable[[], bool] = cast(Any, torch.compiler).assume_constant_result(_there)


@functools.cache
def _kernels() -> ModuleType | None:
    return cpu_kernels("conv")


class _ShortConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        return cast(Any, _kernels()).forward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        return *cast(Any, _kernels()).backward(*grad_outputs, *ctx.saved_tensors), None


@torch.library.custom_op("minrnn::short_conv", mutates_args=())
def _op(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> Tensor:
    return cast(Any, _kernels()).forward(x, weight, bias, past, resets)


@_op.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("minrnn::short_conv_backward", mutates_args=())
def _op_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None,
    resets: Tensor | None,
) -> list[Tensor]:
    grads = cast(Any, _kernels()).backward(grad, x, weight, bias, past, resets)
    return [grad for grad in grads if grad is not None]


@_op_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None,
    resets: Tensor | None,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (x, weight, bias, past) if x is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grads = cast(Any, torch.ops.minrnn.short_conv_backward)(grad, *ctx.saved_tensors)
    return *grads[:3], grads[3] if len(grads) > 3 else None, None


_op.register_autograd(_backward, setup_context=_setup_context)
