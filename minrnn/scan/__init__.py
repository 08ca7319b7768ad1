"""h_t = a_t * h_{t-1} + b_t over a batch of packed sequences, alone or with the gates fused in.

All functions share these arguments and results:

h0: (B, D), the state before the first step; None for `init`. resets: (B, T) bool: a new episode
starts at step t, so h_{t-1} is replaced by `init` there, and nothing of it is seen, NaN included.
Where nothing comes before (no h0 or a reset, and no `init`) the decay is not read, either.
init: (D,), the state that an episode starts from; None for zero. backend: "auto" or a name from
`backends()`. Returns h (B, T, D) and last (B, D), the last step of h, both in float32 (float64
for float64 inputs) whatever the dtype of the inputs. All tensor arguments get gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minrnn.interface import state_dtype
from minrnn.scan import ops
from minrnn.scan.backends import MODULES, backends
from minrnn.scan.gates import CANDIDATES
from minrnn.scan.ops import GATES

__all__ = ["backends", "mingru_scan", "minlstm_scan", "scan"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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

    Backends that cut time into chunks ("eager", "triton") multiply the decays of a chunk: where |a|
    stays above 1 for so long that this overflows, their result is NaN, and "numba"'s is not.

    >>> import torch
    >>> h, last = scan(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1))
    >>> h.flatten().tolist(), last.item()
    ([1.0, 1.5, 1.75], 1.75)
    """
    return _run(backend, "linear", "linear", (a, b), h0, resets, init)


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
    return _run(backend, "mingru", candidate, (k, c), h0, resets, init)


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
    gates = "minlstm" if normalize else "minlstm-raw"
    return _run(backend, gates, candidate, (f, i, c), h0, resets, init)


def _run(
    backend: str,
    gates: str,
    candidate: str,
    inputs: tuple[Tensor, ...],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check(inputs, ", ".join(GATES[gates]), h0, resets, init)
    if backend != "auto" and backend not in MODULES:
        raise ValueError(f"no backend {backend!r}; there is auto, {', '.join(MODULES)}")
    if candidate not in CANDIDATES:
        raise ValueError(f"no candidate {candidate!r}; there is {', '.join(CANDIDATES)}")
    dtype = inputs[0].dtype
    for x in inputs[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    inputs = tuple(x.to(dtype) for x in inputs)
    if init is not None:
        init = init.to(state_dtype(dtype))
        h0 = init.expand_as(inputs[0][:, 0]) if h0 is None else h0
    if h0 is not None:
        h0 = h0.to(state_dtype(dtype))
    return ops.run(backend, gates, candidate, inputs, h0, resets, init)


def _check(
    inputs: tuple[Tensor, ...],
    names: str,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> None:
    first = inputs[0]
    if first.dim() != 3 or first.shape[1] == 0 or any(x.shape != first.shape for x in inputs):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(f"{names} must have one shape (B, T, D) with T >= 1, not {shapes}")
    for x in inputs:
        if x.dtype not in _DTYPES:
            kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise ValueError(f"{names} must be one of {kinds}, not {x.dtype}")
    batch, length, width = first.shape
    for name, x, shape in (
        ("h0", h0, (batch, width)),
        ("resets", resets, (batch, length)),
        ("init", init, (width,)),
    ):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(x.shape)}")
        if x is not None and name != "resets" and not x.is_floating_point():
            raise ValueError(f"{name} must be of floating point, not {x.dtype}")
    for x in (*inputs, h0, resets, init):
        if x is not None and x.device != first.device:
            raise ValueError(
                f"{names} and h0, resets, init must be on one device, "
                f"not {first.device} and {x.device}"
            )
    if resets is not None and resets.dtype != torch.bool:
        raise ValueError(f"resets must be bool, not {resets.dtype}; pass resets.bool()")
