"""The compiled CPU kernels of single cells: functions, references, and what they are tried on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minrnn.scan import diagonal_eager
from minrnn.scan.slstm import slstm_loop, slstm_scan
from minrnn.scan.wkv import wkv_of_scans, wkv_scan

# `minrnn.scan` has functions of these modules' names.
conv, diagonal, selective = (
    importlib.import_module(f"minrnn.scan.{name}") for name in ("conv", "diagonal", "selective")
)


@dataclass(frozen=True)
class Kernel:
    """A kernel and its form in plain torch, both called as function(*inputs, resets)."""

    function: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: Callable[..., list[Tensor]]
    """Takes a shape's numbers; the first two are B and T. float64."""
    shapes: tuple[tuple[int, ...], ...]
    optional: bool = True
    """Whether the last input, the state, may be None."""


def _wkv(batch: int, time: int, width: int) -> list[Tensor]:
    k, v = 3 * _normal(2, batch, time, width)
    w, u = _normal(2, width)
    start = _normal(batch, 3, width)
    start[:, 1] = 1 + start[:, 1].abs()
    return [k, v, -w.exp(), u, start]


def _slstm(batch: int, time: int, heads: int, size: int) -> list[Tensor]:
    start = _normal(batch, 4, heads, size)
    start[:, 2] = 1 + start[:, 2].abs()
    matrix = _normal(heads, size, 4, size) / size**0.5
    return [3 * _normal(batch, time, heads, 4, size), matrix, start]


def _diagonal(batch: int, time: int, width: int, number: int) -> list[Tensor]:
    decay, weight = _normal(2, width, number, 2)
    decay = decay / (1 + decay.norm(dim=-1, keepdim=True))
    return [_normal(batch, time, width), decay, weight, _normal(batch, width, number, 2)]


def _diagonal_reference(u: Tensor, decay: Tensor, weight: Tensor, *rest: Any) -> Any:
    rate, angle = decay.norm(dim=-1).log(), torch.atan2(decay[..., 1], decay[..., 0])
    return diagonal_eager.diagonal_scan(u, decay, rate, angle, weight, *rest)


def _selective(batch: int, time: int, width: int, number: int) -> list[Tensor]:
    u, dt = _normal(2, batch, time, width)
    b, c = _normal(2, batch, time, number)
    start = _normal(batch, width, number)
    return [u, dt.abs(), -_normal(width, number).abs(), b, c, start]


def _conv(batch: int, time: int, width: int, size: int) -> list[Tensor]:
    x = _normal(batch, time, 2 * width)[..., :width]  # with strides of its own
    return [x, _normal(width, size), _normal(width), _normal(batch, size - 1, width)]


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


KERNELS = {
    "wkv": Kernel(wkv_scan, wkv_of_scans, _wkv, ((3, 60, 37), (1, 200, 70), (2, 2, 1)), False),
    "slstm": Kernel(
        *(slstm_scan, slstm_loop, _slstm),
        ((3, 60, 2, 5), (2, 90, 1, 16), (2, 30, 3, 1), (2, 20, 1, 37)),
        optional=False,
    ),
    "diagonal_scan": Kernel(
        lambda u, decay, *rest: diagonal.diagonal_scan(u, decay, decay, decay, *rest),
        *(_diagonal_reference, _diagonal),
        ((5, 70, 17, 4), (1, 70, 150, 3), (2, 2, 1, 1)),
    ),
    "selective_scan": Kernel(
        *(selective.selective_scan, selective.reference, _selective),
        # Channels that fill no vector; chunks with a rest.
        ((3, 50, 20, 5), (2, 32, 16, 16), (2, 33, 8, 1), (1, 1, 3, 2), (4, 100, 37, 3)),
    ),
    "short_conv": Kernel(
        *(conv.short_conv, conv.reference, _conv),
        ((3, 20, 37, 4), (1, 30, 70, 4), (2, 2, 9, 5), (4, 1, 8, 2)),
    ),
}


def arguments(
    name: str, shape: tuple[int, ...], chance: float | None = 0.1, dtype: torch.dtype | None = None
) -> list[Tensor | None]:
    """Return inputs, which want gradients, and resets, drawn with that chance, or None."""
    torch.manual_seed(0)
    inputs = [x.to(dtype).requires_grad_() for x in KERNELS[name].inputs(*shape)]
    return [*inputs, None if chance is None else torch.rand(shape[:2]) < chance]


def results(function: Callable[..., Any], given: list[Tensor | None]) -> list[Tensor]:
    """Return the outputs, and the gradients of a loss that uses all of them."""
    found = function(*given)
    outputs = [found] if isinstance(found, Tensor) else [*found]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
    loss = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
    by = [x for x in given if x is not None and x.requires_grad]
    return [*outputs, *torch.autograd.grad(loss, by)]
