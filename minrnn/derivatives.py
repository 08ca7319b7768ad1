# pyright: reportIncompatibleMethodOverride=false
"""Derivatives beyond the first backward pass: of any order, forward-mode, and under torch.func.

A kernel computes its function and one backward pass, and autograd cannot differentiate either. So
each has a reference of the same function in plain torch, for where more is asked for: `gradients`
differentiates the reference where a backward pass is `differentiated()` itself, and a caller runs
the reference in the kernel's place where `transformed()`. Neither costs anything elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed() -> bool:
    """Return whether torch.func (grad, jvp, vmap, ...) or forward mode is active."""
    inside = cast(Any, torch._C)  # pyright: ignore[reportPrivateUsage]
    if inside._are_functorch_transforms_active():  # torch.compile knows this, too
        return True
    return not torch.compiler.is_compiling() and cast(Any, forward_ad)._current_level >= 0


def differentiated(grads: Sequence[Tensor | None]) -> bool:
    """Return, in a backward pass, whether more is asked than its values for `grads`.

    That is: a derivative of it (`create_graph=True`), or several at once (`is_grads_batched=True`).
    """
    return torch.is_grad_enabled() or transformed() or batched(grads)


def batched(tensors: Sequence[Tensor | None]) -> bool:
    """Return whether one of the tensors is several, as `is_grads_batched=True` makes them."""
    is_batched = cast(Any, torch._C)._functorch.is_legacy_batchedtensor  # pyright: ignore[reportPrivateUsage]
    return any(x is not None and is_batched(x) for x in tensors)


def value_of(value: Tensor, like: Tensor) -> Tensor:
    """Return `value` with the derivatives of `like`, which is equal but for rounding."""
    return cast(Any, _ValueOf).apply(value, like)


class _ValueOf(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, like: Tensor) -> Tensor:
        del like
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, Tensor]:
        return None, grad_outputs[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return tangents[1].clone()


def gradients(
    reference: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients by `tensors` of reference(*tensors), differentiable in grad mode.

    grads: those of the outputs, None for zero. The result is None for what needs no gradient.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, as one tensor may be given twice, and gets a gradient for each place.
        own = [x if x is None or not x.requires_grad else x.view_as(x) for x in tensors]
        outputs = reference(*own)
    needed = [x for x in own if x is not None and x.requires_grad]
    known = [pair for pair in zip(outputs, grads, strict=True) if pair[0].requires_grad]
    known = [(y, g) for y, g in known if g is not None]
    if not known:
        return [None] * len(own)
    ys, gs = zip(*known, strict=True)
    found = iter(torch.autograd.grad(ys, needed, gs, create_graph=again, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in own]
