"""Statistics of the compiled Triton kernels, for GPUs that need not be installed.

The launches of a call on CPU tensors are recorded, and compiled as the same call on a GPU would
compile them: the same types, the same alignment. Registers and instructions are read from the
machine code with the disassembler that Triton brings along, bytes moved from its own first
representation of the loop. `python -m benchmarks.gpu_kernels` prints a JSON line for each kernel;
it takes some eight minutes of a core, on all the cores there are. Most of that is one of Triton's
passes, which coalesces asynchronous copies; `--no-coalesce` leaves it out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from tqdm import tqdm

from minrnn.interface import state_dtype
from minrnn.scan.ops import GATES

TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.uint8: "u8",
}
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2}
CASES = tuple(
    f"{gates}-{candidate}-{dtype}"
    for dtype in ("float32", "bfloat16", "float16", "float64")
    for gates in GATES
    for candidate in (["linear"] if gates == "linear" else ["g", "tanh", "linear"])
)


@dataclass(frozen=True)
class Options:
    """What to compile."""

    cases: tuple[str, ...] = CASES
    """Gates, candidate and dtype of the inputs, as in mingru-g-bfloat16."""
    targets: tuple[int, ...] = (80, 90)
    """Compute capabilities, times ten."""
    width: int = 512
    """Number of channels D."""
    offset: int = 0
    """Offset in elements of each input within its memory; spoils its alignment."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that compile."""
    coalesce: bool = True
    """Run Triton's pass that coalesces asynchronous copies. It is slow and changes none of these
    kernels, whose copies are as wide as they can be."""


@dataclass(frozen=True)
class Kernel:
    """Statistics of one compiled kernel."""

    case: str
    name: str
    target: int
    registers: int
    """Registers of a thread, at most 255."""
    spilled: int
    """Bytes of a thread's registers that were spilled to memory."""
    shared: int
    """Bytes of shared memory of a program, which is one warp."""
    narrowest: int
    """Bytes of the narrowest access to global memory, except to resets, which are single bytes."""
    moved: float
    """Bytes read and written for each element of the (B, T, D) that the scan runs over."""
    instructions: int


def main() -> None:
    """Compile and print."""
    options = tyro.cli(Options, description=__doc__)
    for kernel in inspect(options):
        print(json.dumps(dataclasses.asdict(kernel)), flush=True)


def inspect(options: Options) -> Iterator[Kernel]:
    """Compile all kernels of the options, behind a progress bar on stderr."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("error: with TRITON_INTERPRET=1 nothing is compiled; unset it")
    work = [(case, target, options) for case in options.cases for target in options.targets]
    # Spawned: torch's threads do not survive a fork.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(_inspect_case, work)
        for kernels in tqdm(found, "compile", len(work), leave=False, disable=None):
            yield from kernels


def _inspect_case(work: tuple[str, int, Options]) -> list[Kernel]:
    case, target, options = work
    with contextlib.ExitStack() as stack:
        if not options.coalesce:
            from triton.backends.nvidia.compiler import passes

            patch = mock.patch.object(passes.ttgpuir, "add_coalesce_async_copy")
            stack.enter_context(patch)
        return [
            _inspect(case, name, target, compiled(kernel, arguments, target), arguments)
            for name, (kernel, arguments) in record(case, options.width, options.offset)
        ]


def record(case: str, width: int, offset: int = 0) -> list[tuple[str, tuple[Any, dict[str, Any]]]]:
    """Return (name, (kernel, arguments)) of every launch of a scan in chunks, and its backward."""
    from minrnn.scan import gpu

    gates, candidate, dtype = case.rsplit("-", 2)
    batch, length = 2, 2 * gpu.STEPS
    shape = (batch, length, width)
    kind = getattr(torch, dtype)
    inputs = [
        torch.zeros(batch * length * width + offset, dtype=kind)[offset:].view(shape)
        for _ in GATES[gates]
    ]
    h, last = (x.to(state_dtype(kind)) for x in (inputs[0], inputs[0][:, 0]))
    edges = (torch.zeros_like(last), torch.zeros(shape[:2], dtype=torch.bool), last[0])
    found: list[tuple[Any, dict[str, Any]]] = []
    run, chunk_length = gpu._run, gpu.chunk_length
    gpu._run = lambda kernel, _grid, arguments: found.append((kernel, arguments))
    gpu.chunk_length = lambda _programs, steps, _sms: min(steps, gpu.STEPS)
    try:
        gpu.forward(gates, candidate, inputs, *edges)
        gpu.backward(gates, candidate, h.clone(), last.clone(), inputs, h, *edges)
    finally:
        gpu._run, gpu.chunk_length = run, chunk_length
    # The scans over chunks are those of the linear gates.
    names = ("forward, summary", "carry", "forward", "backward, summary", "carry", "backward")
    kept = names if gates == "linear" else [name for name in names if name != "carry"]
    return [(n, launch) for n, launch in dict(zip(names, found, strict=True)).items() if n in kept]


def compiled(kernel: Any, arguments: dict[str, Any], target: int) -> Any:
    """Compile a kernel for these arguments as the launcher does on a GPU of that capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned: dict[tuple[int], list[list[Any]]] = {}
    for index, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
            if value.data_ptr() % 16 == 0:
                aligned[(index,)] = [["tt.divisibility", 16]]
        elif value is None or kernel.params[index].is_constexpr:
            signature[name] = "constexpr"
            constants[name] = value
        else:
            signature[name] = "i32"
    return triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", target, 32),
        options={name: x for name, x in arguments.items() if name not in kernel.arg_names},
    )


def _inspect(case: str, name: str, target: int, built: Any, arguments: dict[str, Any]) -> Kernel:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "cubin"
        cubin.write_bytes(built.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", cubin)
        code = _tool("nvdisasm", "-c", cubin)
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)", code)
    assert operations, "no instructions in the disassembly"
    widths = [_width(op) for op in operations if re.match(r"LDG\.|LDGSTS|STG", op)]
    return Kernel(
        case=case,
        name=name,
        target=target,
        registers=found["REG"],
        spilled=found["STACK"] + found.get("LOCAL", 0),
        shared=built.metadata.shared,
        narrowest=min(width for width in widths if width > 1),
        moved=_moved(built.asm["ttir"], arguments["BLOCK"], arguments["STEPS"]),
        instructions=len(operations),
    )


def _tool(name: str, *arguments: str | Path) -> str:
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([program, *arguments], capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def _width(operation: str) -> int:
    # LDG.E.128 is 16 bytes wide, LDG.E.U8 one, LDG.E four.
    bits = re.search(r"\.[US]?(8|16|64|128)(?:\.|$)", operation)
    return int(bits[1]) // 8 if bits else 4


def _moved(code: str, block: int, steps: int) -> float:
    # Of rows of channels, in the loop over time, which computes `steps` steps at a time.
    loop = code[code.index("scf.for") :]
    indent = re.search(r"^( *).*scf\.for", code, re.MULTILINE)
    assert indent is not None
    loop = loop[: loop.index(f"\n{indent[1]}}}")]
    kinds = re.findall(rf"tt\.(?:load|store) .*tensor<{block}x!tt\.ptr<(\w+)>>", loop)
    return sum(BYTES[kind] for kind in kinds) / steps


if __name__ == "__main__":
    main()
