# pyright: basic
"""What the kernels for CPUs of single cells share: addresses, threads, compilation."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
import torch
from torch import Tensor

from minrnn.scan import cpu
from minrnn.scan.cpu.simd import LINE

GRAIN = 1 << 18  # numbers that a thread is worth waking for


def ready(
    x: Tensor, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return x as a kernel reads it; ValueError unless shape and dtype are what it takes them for.

    A kernel checks nothing, and an op can be called by anyone.
    """
    dtype = dtype or like.dtype
    if x.shape != torch.Size(shape) or x.dtype != dtype or x.device.type != "cpu":
        raise ValueError(
            f"expected {tuple(shape)} of {dtype} on a CPU, "
            f"not {tuple(x.shape)} of {x.dtype} on {x.device}"
        )
    return x.resolve_neg().contiguous()


def addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    """Return where the numbers are, 0 for what is not there. The tensors have to live on."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def parts(batch: int, width: int, work: int) -> list[tuple[int, int, int, int]]:
    """Return (b0, b1, d0, d1) for each thread; the channels change fastest. work: numbers."""
    threads = max(1, min(torch.get_num_threads(), work // GRAIN))
    over_batch = max(1, min(threads, batch))
    over_width = min(threads // over_batch, -(-width // LINE))
    return [
        (*rows, *columns)
        for rows in cpu._ranges(batch, over_batch, 1)
        for columns in cpu._ranges(width, over_width, LINE)
    ]


def spread(work: Callable[[int], None], count: int) -> None:
    """Do work(0) here, and the others in threads; what it closes over lives until all are done."""
    waiting = [cpu._pool().submit(work, index) for index in range(1, count)]
    work(0)
    for future in waiting:
        future.result()


def call(compiled: Callable[..., None], *arguments: int) -> None:
    """Call a kernel."""
    try:
        compiled(*arguments)
    except OSError:  # numba compiled it, and could not write that to the disk
        compiled(*arguments)


def jit(function):
    """Compile a kernel when it is first called, and keep the result on disk."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no place to keep it in
        return numba.njit(nogil=True)(function)


@functools.cache
def sources(other: str) -> int:
    """Return a number, not 0, for a kernel's closure: it is compiled again when others change.

    other: a file beside this one.
    """
    names = "cpu/gates.py", "cpu/simd.py", other
    code = b"".join((Path(__file__).parent / name).read_bytes() for name in names)
    return int(hashlib.sha256(code).hexdigest()[:8], 16) + 1
