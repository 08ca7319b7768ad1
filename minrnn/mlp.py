# pyright: basic, reportIncompatibleMethodOverride=false
"""The MLP of a block, with its ReLU fused where a CPU trains it in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.derivatives import differentiated, gradients, transformed

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


# Those of all modules; torch's own question for them is newer than torch 2.7.
_HOOKS = [
    f"_global_{when}_hooks" for when in ("forward_pre", "forward", "backward_pre", "backward")
]


class MLP(nn.Sequential):
    """Linear, activation, Linear.

    >>> import torch
    >>> MLP(8, 32)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, inner: int, activation: str = "relu") -> None:
        super().__init__(nn.Linear(dim, inner), ACTIVATIONS[activation](), nn.Linear(inner, dim))

    def forward(self, input: Tensor) -> Tensor:
        """Read and return (..., dim)."""
        if _FUSED is not None and _fusible(self, input):
            up, _, down = self
            parameters = up.weight, up.bias, down.weight, down.bias
            return cast(Tensor, cast(Any, _ReluMLP.apply)(input, *parameters))
        return super().forward(input)


def _fusible(mlp: MLP, x: Tensor) -> bool:
    # In training on sequences, in float32, if no layer was replaced, is listened to, or holds
    # anything but plain numbers.
    inside: Any = torch._C
    return (
        torch.is_grad_enabled()
        and x.dim() == 3
        and x.device.type == "cpu"
        and len(mlp) == 3
        and type(mlp[1]) is nn.ReLU
        and all(map(_plain, mlp))
        and x.dtype == mlp[0].weight.dtype == mlp[2].weight.dtype == torch.float32
        and type(x) is Tensor
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # a compiler fuses it by itself
        and not inside._len_torch_dispatch_stack()
        and not transformed()
        and not inside._is_tracing()
        and not any(getattr(nn.modules.module, name) for name in _HOOKS)
    )


def _plain(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    if hooks or "forward" in module.__dict__:
        return False
    if type(module) is nn.Linear:
        return all(type(p) is nn.Parameter for p in module.parameters(recurse=False))
    return type(module) is nn.ReLU


def _fused_linear() -> Callable[..., Tensor] | None:
    # oneDNN's product with bias in one pass, as torch.compile calls it. addmm first
    # copies the bias into every row.
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_FUSED = _fused_linear()


class _ReluMLP(torch.autograd.Function):
    """Does what autograd would do, with two passes and two buffers less in each direction."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
    ) -> Tensor:
        assert _FUSED is not None
        rows = x.reshape(-1, x.shape[-1])
        hidden = _FUSED(rows, w1, b1, "none", [], "").relu_()  # oneDNN's own ReLU turns NaN into 0
        ctx.save_for_backward(rows, w1, w2, hidden, x, b1, b2)
        return _FUSED(hidden, w2, b2, "none", [], "").view(*x.shape[:-1], len(w2))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, w1, w2, hidden, x, b1, b2 = ctx.saved_tensors
        if differentiated(grad_outputs):
            return tuple(gradients(_reference, (x, w1, b1, w2, b2), grad_outputs))
        grad = grad_outputs[0].reshape(len(rows), len(w2))
        inner = grad @ w2
        # In place: the tensor is new, and nothing else refers to it.
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        needed = ctx.needs_input_grad
        return (
            (inner @ w1).view(x.shape) if needed[0] else None,
            inner.t() @ rows if needed[1] else None,
            inner.sum(0) if needed[2] else None,
            grad.t() @ hidden if needed[3] else None,
            grad.sum(0) if needed[4] else None,
        )


def _reference(x: Tensor, w1: Tensor, b1: Any, w2: Tensor, b2: Any) -> tuple[Tensor]:
    return (F.linear(F.linear(x, w1, b1).relu(), w2, b2),)
