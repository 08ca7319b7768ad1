# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false
"""The scan for autograd and the compiler: one forward and one backward pass for all gates.

A backend is a module with two functions, which see checked arguments only:

    forward(gates, candidate, inputs, h0, resets, init) -> h
    backward(gates, candidate, grad_h, grad_last, inputs, h, h0, resets, init)
        -> (gradients of the inputs, gradient of h0 or None, gradient of init or None)

gates: a key of GATES, which says what the inputs are: (B, T, D) each, of one dtype, any strides.
candidate: "g", "tanh" or "linear". h0 (B, D) or None for zero, and init (D,) or None for zero,
in the dtype of h: float32, or float64 for float64 inputs. resets (B, T) bool or None. grad_h
(B, T, D) and grad_last (B, D), the gradient of h[:, -1] over again, in the dtype of h; None for
zero. h (B, T, D) and the gradients are new and contiguous, those of the inputs in their dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.compiling import exporting, traced
from minrnn.derivatives import differentiated, gradients, transformed
from minrnn.interface import state_dtype
from minrnn.scan import linear
from minrnn.scan.backends import load

# Name of the gates: the names of the inputs.
GATES: dict[str, tuple[str, ...]] = {
    "linear": ("a", "b"),
    "mingru": ("k", "c"),
    "minlstm": ("f", "i", "c"),
    "minlstm-raw": ("f", "i", "c"),  # not normalised
}


def run(
    backend: str,
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return h (B, T, D) and a copy of its last step (B, D), with gradients."""
    if transformed():
        return linear.run(backend, gates, candidate, inputs, h0, resets, init)
    if traced((*inputs, h0, resets, init)):
        if exporting(inputs[0]):
            return linear.run(backend, gates, candidate, inputs, h0, resets, init)
        op = cast(Any, torch.ops.minrnn.scan)
        return op(list(inputs), h0, resets, init, gates, candidate, backend)
    # The op does the same, and costs 85 microseconds more to call.
    apply = cast(Any, _Scan.apply)
    return apply(backend, gates, candidate, h0, resets, init, *inputs)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        backend: str,
        gates: str,
        candidate: str,
        h0: Tensor | None,
        resets: Tensor | None,
        init: Tensor | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        h = load(backend, inputs[0].device).forward(gates, candidate, inputs, h0, resets, init)
        ctx.save_for_backward(h, h0, resets, init, *inputs)
        ctx.options = backend, gates, candidate
        ctx.set_materialize_grads(False)
        return h, h[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        h, h0, resets, init, *inputs = ctx.saved_tensors
        backend, gates, candidate = ctx.options
        if differentiated(grad_outputs):
            found = _again(grad_outputs, inputs, h0, resets, init, gates, candidate, backend)
            return None, None, None, found[-3], None, found[-1], *found[:-3]
        grads, grad_h0, grad_init = load(backend, h.device).backward(
            gates, candidate, *grad_outputs, inputs, h, h0, resets, init
        )
        return None, None, None, grad_h0, None, grad_init, *grads


def _again(
    grads: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    gates: str,
    candidate: str,
    backend: str,
) -> list[Tensor | None]:
    # The gradients of inputs, h0, resets and init, differentiable.
    def reference(*given: Any) -> tuple[Tensor, Tensor]:
        return linear.run(backend, gates, candidate, given[:-3], *given[-3:])

    return gradients(reference, (*inputs, h0, resets, init), grads)


@torch.library.custom_op("minrnn::scan", mutates_args=())
def _op(
    inputs: list[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    gates: str,
    candidate: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    h = load(backend, inputs[0].device).forward(gates, candidate, inputs, h0, resets, init)
    return h, h[:, -1].clone()


@torch.library.custom_op("minrnn::scan_backward", mutates_args=())
def _op_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    inputs: list[Tensor],
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    gates: str,
    candidate: str,
    backend: str,
) -> list[Tensor]:
    # The gradients of inputs, h0 and init; of the last two only if they are given.
    grads, *rest = load(backend, h.device).backward(
        gates, candidate, grad_h, grad_last, inputs, h, h0, resets, init
    )
    return [*grads, *(x for x in rest if x is not None)]


@_op.register_fake
def _(
    inputs: list[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    gates: str,
    candidate: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    batch, length, width = inputs[0].shape
    dtype = state_dtype(inputs[0].dtype)
    return (
        inputs[0].new_empty((batch, length, width), dtype=dtype),
        inputs[0].new_empty((batch, width), dtype=dtype),
    )


@_op_backward.register_fake
def _(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    inputs: list[Tensor],
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    gates: str,
    candidate: str,
    backend: str,
) -> list[Tensor]:
    grads = [x.new_empty(x.shape) for x in inputs]
    return [*grads, *(x.new_empty(x.shape) for x in (h0, init) if x is not None)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, h0, resets, init, *options = inputs
    ctx.save_for_backward(output[0], h0, resets, init, *tensors)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
    h, h0, resets, init, *inputs = ctx.saved_tensors
    if differentiated((grad_h, grad_last)):
        found = _again((grad_h, grad_last), inputs, h0, resets, init, *ctx.options)
        return found[:-3], found[-3], None, found[-1], None, None, None
    grads = torch.ops.minrnn.scan_backward(
        grad_h, grad_last, inputs, h, h0, resets, init, *ctx.options
    )
    rest = iter(grads[len(inputs) :])
    grad_h0 = None if h0 is None else next(rest)
    grad_init = None if init is None else next(rest)
    return grads[: len(inputs)], grad_h0, None, grad_init, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
