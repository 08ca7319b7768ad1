# pyright: basic
"""Shared by the kernels: addresses, threads, compilation."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import torch
from torch import Tensor

from minrnn.scan.cpu.simd import LINE

# A thread pays off from this many numbers on, some 0.3 ms: with 80,000 each, two are slower.
GRAIN = 1 << 18


def ready(
    x: Tensor, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return x, contiguous, for a kernel; ValueError unless its shape and dtype are as given.

    A kernel checks nothing, and anyone can call an op.
    """
    dtype = dtype or like.dtype
    if x.shape != torch.Size(shape) or x.dtype != dtype or x.device.type != "cpu":
        raise ValueError(
            f"expected {tuple(shape)} of {dtype} on a CPU, "
            f"not {tuple(x.shape)} of {x.dtype} on {x.device}"
        )
    return x.resolve_neg().contiguous()


def optional(x: Tensor | None, shape: Sequence[int], like: Tensor) -> Tensor | None:
    """Return x as `ready` does, or None for None."""
    return None if x is None else ready(x, shape, like)


def marks(resets: Tensor | None, like: Tensor) -> Tensor | None:
    """Return resets, contiguous, for a kernel. like: (B, T, ...)."""
    return None if resets is None else ready(resets, like.shape[:2], like, torch.bool)


def addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    """Return the addresses of the data, 0 for None. The caller has to keep the tensors alive."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def parts(batch: int, width: int, work: int) -> list[tuple[int, int, int, int]]:
    """Return (b0, b1, d0, d1) for each thread; the channels change fastest.

    Rows of the batch, and where these are few, channels. work: the numbers computed in all.
    """
    threads = max(1, min(torch.get_num_threads(), work // GRAIN))
    if threads == 1:
        return [(0, batch, 0, width)]
    over_batch = max(1, min(threads, batch))
    over_width = max(1, min(threads // over_batch, -(-width // LINE)))
    return [
        (*rows, *columns)
        for rows in _ranges(batch, over_batch, 1)
        for columns in _ranges(width, over_width, LINE)
    ]


def _ranges(size: int, count: int, unit: int) -> list[tuple[int, int]]:
    # Even parts of range(size), whole units each but for the last.
    units = -(-size // unit)
    cuts = [min(size, units * part // count * unit) for part in range(count + 1)]
    return list(itertools.pairwise(cuts))


def run(
    compiled: Callable[..., None],
    parts: Sequence[Sequence[int]],
    sizes: Sequence[int],
    tensors: Sequence[Tensor | None],
    own: Sequence[Tensor] = (),
) -> None:
    """Call a kernel for each part, each in a thread, with the part, the sizes, and addresses.

    own: tensors x of which each part gets x[index] for itself, as the last arguments; if x has
    fewer rows than there are parts, parts of the same channels share one.
    """

    def work(index: int) -> None:
        given = [
            x.data_ptr() + index % len(x) * x.stride(0) * x.element_size() for x in own
        ]  # the address of x[index], without the cost of making that tensor
        call(compiled, *parts[index], *sizes, *addresses(tensors), *given)

    spread(work, len(parts))


def spread(work: Callable[[int], None], count: int) -> None:
    """Call work(0) in this thread, and the others in threads of the pool.

    Kernels get addresses. `work` holds their tensors, so that these live until the last thread is
    done, even if this one is interrupted.
    """
    waiting = [_pool().submit(work, index) for index in range(1, count)]
    work(0)
    for future in waiting:
        future.result()


# Threads of our own: numba's pools abort a process that calls them from two threads (workqueue),
# or kill a forked child (OpenMP). The kernels run without the GIL.
@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="minrnn-scan")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def call(compiled: Callable[..., None], *arguments: int) -> None:
    """Call a kernel."""
    try:
        compiled(*arguments)
    except OSError:  # numba compiled it, but could not write it to the disk
        compiled(*arguments)


def stored(x: Tensor) -> str:
    """Return the name of its dtype, as `simd.at` takes it."""
    return str(x.dtype).removeprefix("torch.")


def lanes(name: str) -> int:
    """Return how many numbers of that dtype, float32 or float64, a vector holds."""
    return LINE // (8 if name == "float64" else 4)


def jit(function):
    """Compile a kernel when it is first called, and keep the result on disk.

    Each combination of the constants in its closure gets files of its own. numba numbers the files
    of one name: two processes that compile different kernels at once could load each other's.
    """
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    found = {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
    constants = [x for name, x in found.items() if isinstance(x, str | int) and name != "sources"]
    function.__qualname__ = "-".join(map(str, [function.__qualname__, *constants]))
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no writable folder for its cache
        return numba.njit(nogil=True)(function)


@functools.cache
def sources(*others: str) -> int:
    """Return a hash, not 0, of the sources that a kernel includes, to be a variable of its closure.

    numba recompiles when the kernel's own file or a variable of its closure changes. others: files
    in the folder above whose constants it uses.
    """
    here = Path(__file__).parent
    files = [here / "gates.py", here / "simd.py", *(here.parent / name for name in others)]
    code = b"".join(path.read_bytes() for path in files)
    return int(hashlib.sha256(code).hexdigest()[:8], 16) + 1
