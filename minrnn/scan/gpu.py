# pyright: reportUnknownMemberType=false
"""The backend in Triton, for GPUs: gates and scan in one pass over memory, forward and backward.

Two schedules. Where the rows of a batch fill the chip, a program walks over all time steps of a
block of channels of a row. Where they do not, rows are cut into chunks of time as well: one pass
finds how each chunk maps its incoming state, a scan over chunks (by the same kernel) computes these
incoming states, and each chunk then runs from its own. Within a chunk the steps are summed in the
order of the loop.

Nothing is read back on the way, so that it can be captured in a CUDA graph. See `minrnn.scan.ops`
for the arguments, and `minrnn.scan.gpu_kernels` for the kernels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from minrnn.interface import state_dtype
from minrnn.scan import gpu_kernels

# Time steps that are computed side by side, and how many such groups are in flight.
STEPS, _STAGES = 4, 4
# Registers of a thread. With this limit the compiler spills none for occupancy; AMD's compiler has
# no such option.
_ALL_REGISTERS = {"maxnreg": 255} if torch.version.hip is None else {}
# Names of the strides over rows of the batch and time steps.
_KINDS = ("row", "step")
_BYTE = torch.uint8
# Warps of a multiprocessor that keep both memory and arithmetic busy; half as many nearly do. Each
# is a program with up to 30 KiB of shared memory: an H100 holds 7 of the largest, an A100 5.
_WARPS = 8
# For shorter rows and chunks, two more launches and a second read of the data do not pay.
_LONG, _CHUNK = 256, 64


def forward(
    gates: str,
    candidate: str,
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
) -> Tensor:
    """Compute the states."""
    given = _given(inputs, h0, resets, init)
    call = _Call.of(gates, candidate, given, STEPS)
    h = call.empty(call.batch, call.length, call.width)
    ends = None
    if call.num_chunks > 1:
        product, end, cut = call.summaries(resets)
        outputs = {"h": end, "product": product, "cut": cut}
        call.launch(gpu_kernels.forward_kernel, {**given, **outputs}, summary=True)
        ends = forward("linear", "linear", (product, end), h0, cut, None)
    call.launch(gpu_kernels.forward_kernel, {**given, "ends": ends, "h": h})
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
    given = _given(inputs, h0, resets, init, grad_h=grad_h, grad_last=grad_last)
    # Rows of half precision are twice as wide: with as many steps, registers run out.
    call = _Call.of(gates, candidate, given, STEPS // 2 if h.dtype != inputs[0].dtype else STEPS)
    given["h"] = h.contiguous()
    ends = None
    if call.num_chunks > 1:  # numbered from the end: the scan over them runs forward
        product, end, cut = call.summaries(resets)
        outputs = {"end": end, "product": product, "cut": cut}
        call.launch(gpu_kernels.backward_kernel, {**given, **outputs}, summary=True)
        ends = forward("linear", "linear", (product, end), grad_last, cut, None)
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]
    outputs = {f"grad_x{i}": grad for i, grad in enumerate(grads)}
    grad_h0 = grad_init = partial = None
    if h0 is not None:
        outputs["grad_h0"] = grad_h0 = call.empty(call.batch, call.width)
    if init is not None and resets is not None:
        outputs["grad_init"] = partial = call.empty(call.batch, call.num_chunks, call.width)
    tensors = {**given, **outputs, "ends": ends}
    call.launch(gpu_kernels.backward_kernel, tensors, options=_ALL_REGISTERS)
    if init is not None:  # a sum for each program, then over them: no atomics, so reproducible
        grad_init = torch.zeros_like(init) if partial is None else partial.sum((0, 1))
    return grads, grad_h0, grad_init


def chunk_length(programs: int, length: int, multiprocessors: int) -> int:
    """Return the number of time steps in a chunk: `length` for one chunk, else a multiple of STEPS.

    programs: the number of warps without chunks. Chunks read the data twice: a minGRU moves 5 words
    an element instead of 3, and 8 instead of 6 in the backward pass. So they are used where at
    least half of the chip would be idle, and make just enough warps to fill it.
    """
    wanted = _WARPS * multiprocessors
    if length <= _LONG or 2 * programs >= wanted:
        return length
    num_chunks = min(-(-wanted // programs), length // _CHUNK)
    return -(-length // (num_chunks * STEPS)) * STEPS


@dataclass(frozen=True)
class _Call:
    """Settings that the launches of one call share."""

    batch: int
    length: int
    width: int
    block: int  # channels of a program
    chunk: int  # time steps of a program
    dtype: torch.dtype  # of h
    device: torch.device
    arguments: dict[str, Any]  # of every kernel, and options of the compiler, by name

    @staticmethod
    def of(gates: str, candidate: str, given: dict[str, Tensor | None], steps: int) -> _Call:
        """Plan a call with these arguments; `steps` of a program's are computed at once."""
        x = given["x0"]
        assert x is not None
        batch, length, width = x.shape
        strides: dict[str, int] = {}
        for name, y in given.items():
            if y is not None and name != "resets":
                for dim, kind in enumerate(_KINDS[: y.dim() - 1]):  # a single row has no next one
                    strides[f"{name}_{kind}"] = y.stride(dim) if y.shape[dim] > 1 else 0
        # Elements that may be moved at once: their number divides the width and all strides.
        vector = 16 // x.element_size()
        block = min(32 * vector, 1 << max(width - 1, 0).bit_length())
        vector = math.gcd(vector, width, *strides.values())
        chunk = length
        if batch * width > 0:
            programs = batch * -(-width // block)
            chunk = chunk_length(programs, length, _multiprocessors(x.device))
        arguments: dict[str, Any] = {name: stride // vector for name, stride in strides.items()}
        if (resets := given["resets"]) is not None:
            arguments["resets_row"], arguments["resets_step"] = resets.stride()
        arguments |= {
            "length": length,
            "chunk": chunk,
            "width": width // vector,
            "blocks": -(-width // block),
            "GATES": gates,
            "CANDIDATE": candidate,
            "VEC": vector,
            "BLOCK": block,
            "STEPS": steps,
            "STAGES": _STAGES,
            "num_warps": 1,
            "enable_fp_fusion": True,
        }
        return _Call(batch, length, width, block, chunk, state_dtype(x.dtype), x.device, arguments)

    @property
    def num_chunks(self) -> int:
        return -(-self.length // self.chunk)

    def empty(self, *shape: int) -> Tensor:
        """Return a new tensor like h."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def summaries(self, resets: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return buffers for product, end and cut of all chunks but the last."""
        shape = (self.batch, self.num_chunks - 1)
        cut = None if resets is None else torch.empty(shape, dtype=torch.bool, device=self.device)
        return self.empty(*shape, self.width), self.empty(*shape, self.width), cut

    def launch(
        self,
        kernel: Any,
        tensors: dict[str, Tensor | None],
        summary: bool = False,
        options: dict[str, int] | None = None,
    ) -> None:
        """Start a kernel's programs on the tensors by these names."""
        arguments = _nothing(tuple(kernel.arg_names)) | self.arguments | (options or {})
        arguments["SUMMARY"] = summary
        for name, x in tensors.items():
            arguments[f"{name}_ptr"] = x if x is None or x.dtype != torch.bool else x.view(_BYTE)
        grid = (self.batch * arguments["blocks"], self.num_chunks - summary)
        with torch.cuda.device_of(tensors["x0"]):
            _run(kernel, grid, arguments)


def _run(kernel: Any, grid: tuple[int, int], arguments: dict[str, Any]) -> None:
    kernel[grid](**arguments)


@functools.cache
def _nothing(names: tuple[str, ...]) -> dict[str, Any]:
    # Kernel arguments for tensors that are missing: no pointer, and strides of 0.
    pointers = {name: None for name in names if name.endswith("_ptr")}
    return pointers | {name: 0 for name in names if name.endswith(tuple(f"_{k}" for k in _KINDS))}


def _given(
    inputs: Sequence[Tensor],
    h0: Tensor | None,
    resets: Tensor | None,
    init: Tensor | None,
    **grads: Tensor | None,
) -> dict[str, Tensor | None]:
    # The arguments by the kernels' names, with neighbouring channels next to each other.
    given = {f"x{i}": x for i, x in enumerate(inputs)} | {"h0": h0, "init": init} | grads
    for name, x in given.items():
        if x is not None and x.is_neg():
            given[name] = x.resolve_neg()
        elif x is not None and x.stride(-1) != 1 and x.shape[-1] > 1:
            given[name] = x.contiguous()
    return {**given, "resets": resets}


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # the interpreter
        return 0
    return cast(Any, torch.cuda).get_device_properties(device).multi_processor_count
