# pyright: basic, reportIncompatibleMethodOverride=false
"""The MLP of a block, with its ReLU fused where a CPU trains it in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


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
        up, activation, down = self
        if (
            _FUSED is not None
            and torch.is_grad_enabled()
            and input.device.type == "cpu"
            and input.dtype == up.weight.dtype == down.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and type(activation) is nn.ReLU
            and all(map(_plain, self))
        ):
            parameters = up.weight, up.bias, down.weight, down.bias
            return cast(Tensor, cast(Any, _ReluMLP.apply)(input, *parameters))
        return super().forward(input)


def _plain(module: nn.Module) -> bool:
    # Not replaced (LoRA, quantisation), and nobody is listening.
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return type(module) in (nn.Linear, nn.ReLU) and not hooks


def _fused_linear() -> Callable[..., Tensor] | None:
    # oneDNN's product with bias in one pass, as torch.compile calls it. addmm first
    # copies the bias into every row.
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_FUSED = _fused_linear()


class _ReluMLP(torch.autograd.Function):
    # What autograd would do, but for two passes and two buffers less in each direction.

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None
    ) -> Tensor:
        assert _FUSED is not None
        rows = x.reshape(-1, x.shape[-1])
        hidden = _FUSED(rows, w1, b1, "none", [], "").relu_()  # its own ReLU makes 0 of NaN
        ctx.save_for_backward(rows, w1, w2, hidden)
        ctx.biased = b1 is not None, b2 is not None
        ctx.shape = x.shape
        return _FUSED(hidden, w2, b2, "none", [], "").view(*x.shape[:-1], len(w2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, w1, w2, hidden = ctx.saved_tensors
        grad = grad_outputs[0].reshape(len(rows), len(w2))
        inner = grad @ w2
        # In place: nobody else has seen it.
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        return (
            (inner @ w1).view(ctx.shape),
            inner.t() @ rows,
            inner.sum(0) if ctx.biased[0] else None,
            grad.t() @ hidden,
            grad.sum(0) if ctx.biased[1] else None,
        )
