"""Compare a cell in float32 with its equations in float64, written as a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def twins(cell: Callable[..., Any], dim: int, **options: Any) -> tuple[Any, Any]:
    """Return a cell, and itself in float64."""
    torch.manual_seed(0)
    one, exact = cell(dim, **options), cell(dim, **options).double()
    exact.load_state_dict(one.state_dict())
    return one, exact


def assert_equations(
    cell: nn.Module,
    exact: nn.Module,
    loop: Callable[..., Tensor],
    x: Tensor,
    density: float | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Compare outputs, and gradients by all parameters, with resets of that density."""
    resets = None if density is None else torch.rand(x.shape[:2]) < density
    weight = torch.randn_like(x)
    y, _ = cell(x, None, resets)
    wanted = loop(exact, x.double(), resets)
    torch.testing.assert_close(y.double(), wanted, rtol=tolerance, atol=tolerance)
    got = torch.autograd.grad((y * weight).sum(), list(cell.parameters()))
    exactly = torch.autograd.grad((wanted * weight).sum(), list(exact.parameters()))
    for one, other in zip(got, exactly, strict=True):
        scale = tolerance * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=scale)


def assert_survives(cell: nn.Module, x: Tensor, wanted: Tensor) -> None:
    """Compare the outputs at huge inputs; the next step and all gradients are finite."""
    y, state = cell(x)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    more, _ = cell.step(1e-3 * x[:, 0], state)
    assert more.isfinite().all()
    grads = torch.autograd.grad(y.sum(), list(cell.parameters()))
    assert all(grad.isfinite().all() for grad in grads)
