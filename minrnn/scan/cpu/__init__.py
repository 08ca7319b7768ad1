"""The backend for CPUs: one pass over memory, compiled by numba.

Serial over time, in vectors over channels, in as many threads as torch has, each with rows of the
batch or channels of its own: the result does not depend on their number. The first call compiles
for some seconds; numba keeps the result on disk. See `minrnn.scan.ops` for the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minrnn.interface import state_dtype
from minrnn.scan.cpu import gates as gate_math
from minrnn.scan.cpu import kernels, launch
from minrnn.scan.cpu.simd import LINE

# From this many elements on, outputs bypass the caches, which saves reading a cache line before
# writing it. With a quarter of them it makes no difference.
_LARGE = 1 << 22


def forward(
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> Tensor:
    """Compute the states."""
    h = torch.empty(inputs[0].shape, dtype=state_dtype(inputs[0].dtype))
    _launch(kernels.forward, gates, candidate, inputs, h, h0, resets, init, [h])
    return h


def backward(
    gates: str,
    candidate: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    inputs: Sequence[Tensor],
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Compute the gradients of inputs, h0 and init."""
    batch, length, width = h.shape
    grads = [torch.empty(h.shape, dtype=x.dtype) for x in inputs]
    grad_start, grad_init = (torch.empty((batch, width), dtype=h.dtype) for _ in range(2))
    given = [_dense(grad_h), _dense(grad_last)]
    for x, shape in zip(given, ((batch, length, width), (batch, width)), strict=True):
        _address(x, shape, h.dtype)
    more = [*given, *_three(grads), grad_start, grad_init]
    _launch(kernels.backward, gates, candidate, inputs, h, h0, resets, init, grads, more)
    return (
        grads,
        None if h0 is None else grad_start,
        None if init is None else grad_init.sum(0),
    )


def _launch(
    kernel: Callable[..., Callable[..., None]],
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    targets: Sequence[Tensor],
    more: Sequence[Tensor | None] = (),
) -> None:
    batch, length, width = h.shape
    compiled = kernel(
        gate_math.GATES[gates],
        gate_math.CANDIDATES[candidate],
        launch.stored(inputs[0]),
        launch.stored(h),
        _past_caches(h, targets),
    )
    rows = [_resolved(x) for x in inputs]
    rows = _three([x if x.stride(2) == 1 or width == 1 else x.contiguous() for x in rows])
    strided: list[int] = []
    for x in rows:
        strided += [_address(x, h.shape, inputs[0].dtype), x.stride(0), x.stride(1)]
    dense = [_dense(x) for x in (h0, resets, init, h)]
    shapes = ((batch, width), (batch, length), (width,), (batch, length, width))
    dtypes = (h.dtype, torch.bool, h.dtype, h.dtype)
    addresses = [_address(*x) for x in zip(dense, shapes, dtypes, strict=True)]
    rest = [_address(x, None, None) for x in more]
    parts = launch.parts(batch, width, batch * length * width)
    scratch = torch.empty((len(parts), 2 * width), dtype=h.dtype)
    alive = (rows, dense, more)  # their memory must live until the last thread is done

    def work(index: int, _alive: object = alive) -> None:
        own = scratch[index].data_ptr()
        launch.call(compiled, *parts[index], length, width, *strided, *addresses, own, *rest)

    launch.spread(work, len(parts))


def _past_caches(h: Tensor, targets: Sequence[Tensor]) -> bool:
    # Only whole cache lines can bypass them: every row of channels has to start with one.
    return (
        h.numel() >= _LARGE
        and h.shape[2] * h.element_size() % LINE == 0
        and all(x.data_ptr() % LINE == 0 for x in targets)
    )


def _three(x: list[Tensor]) -> list[Tensor]:
    return x if len(x) == 3 else [*x, x[-1]]


def _resolved(x: Tensor) -> Tensor:
    # The imaginary part of a conjugate is a view whose sign is not applied yet.
    return x.resolve_neg() if x.is_neg() else x


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else _resolved(x).contiguous()


def _address(x: Tensor | None, shape: Sequence[int] | None, dtype: torch.dtype | None) -> int:
    # 0 stands for None. The kernel checks nothing, and anyone can call an op.
    if x is None:
        return 0
    if (shape is not None and x.shape != shape) or (dtype is not None and x.dtype != dtype):
        raise ValueError(f"expected {shape} of {dtype}, not {tuple(x.shape)} of {x.dtype}")
    address = x.data_ptr()
    if x.device.type != "cpu" or (address == 0 and x.numel() > 0):
        raise ValueError(f"a tensor on {x.device} has no memory that a CPU could read")
    return address
