"""h_t = a_t * h_{t-1} + b_t over a batch of packed sequences, alone or with the gates fused in.

All of them share these arguments and results:

h0: (B, D), the state before the first step; None for `init`. resets: (B, T) bool: a new episode
starts at step t, so h_{t-1} is replaced by `init` there, and nothing of it is seen, NaN included.
init: (D,), the state that an episode starts from; None for zero. backend: "auto" or a name from
`backends()`. Returns h (B, T, D) and last (B, D), the last step of h, both in float32 (float64
for float64 inputs) whatever the dtype of the inputs. All tensor arguments get gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.scan import eager
from minrnn.scan.gates import CANDIDATES

__all__ = ["backends", "mingru_scan", "minlstm_scan", "scan"]


def scan(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = "auto",
    *,
    init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = a_t * h_{t-1} + b_t. a, b: (B, T, D).

    >>> import torch
    >>> h, last = scan(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1))
    >>> h.flatten().tolist(), last.item()
    ([1.0, 1.5, 1.75], 1.75)
    """
    _check((a, b), "a, b", h0, resets, init, backend)
    return _apply(eager.Scan, a, b, h0, resets, init)


def mingru_scan(
    k: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = "auto",
    *,
    init: Tensor | None = None,
    candidate: str = "g",
) -> tuple[Tensor, Tensor]:
    """Compute h_t = (1 - z_t) * h_{t-1} + z_t * candidate(c_t), z = sigmoid(k). k, c: (B, T, D)."""
    _check((k, c), "k, c", h0, resets, init, backend, candidate)
    return _apply(eager.MinGRUScan, k, c, h0, resets, init, candidate)


def minlstm_scan(
    f: Tensor,
    i: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
    backend: str = "auto",
    *,
    init: Tensor | None = None,
    candidate: str = "g",
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = f'_t * h_{t-1} + i'_t * candidate(c_t). f, i, c: (B, T, D).

    With F = sigmoid(f), I = sigmoid(i): f' = F / (F + I), i' = I / (F + I); F and I themselves
    with normalize=False.
    """
    _check((f, i, c), "f, i, c", h0, resets, init, backend, candidate)
    return _apply(eager.MinLSTMScan, f, i, c, h0, resets, init, candidate, normalize)


def backends() -> tuple[str, ...]:
    """Return the names of the backends that work here, the one that "auto" means first."""
    return ("eager",)


def _call(function: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", function.apply(*arguments))


# A compiler would unroll the loop over time.
_apply = cast("Callable[..., tuple[Tensor, Tensor]]", cast(Any, torch).compiler.disable(_call))


def _check(
    inputs: tuple[Tensor, ...],
    names: str,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    backend: str,
    candidate: str = "g",
) -> None:
    first = inputs[0]
    if first.dim() != 3 or first.shape[1] == 0 or any(x.shape != first.shape for x in inputs):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(f"{names} must have one shape (B, T, D) with T >= 1, not {shapes}")
    if not all(x.is_floating_point() for x in inputs):
        raise ValueError(f"{names} must be of floating point, not {first.dtype}")
    batch, length, width = first.shape
    for name, x, shape in (
        ("h0", h0, (batch, width)),
        ("resets", resets, (batch, length)),
        ("init", init, (width,)),
    ):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(x.shape)}")
    if resets is not None and resets.dtype != torch.bool:
        raise ValueError(f"resets must be bool, not {resets.dtype}; pass resets.bool()")
    if backend != "auto" and backend not in backends():
        raise ValueError(f"no backend {backend!r}; there is auto, {', '.join(backends())}")
    if candidate not in CANDIDATES:
        raise ValueError(f"no candidate {candidate!r}; there is {', '.join(CANDIDATES)}")
