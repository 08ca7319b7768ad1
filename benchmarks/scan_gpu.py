"""Speed of the Triton scans, or statistics of their kernels: `python -m benchmarks.scan_gpu`.

On a GPU: forward and backward through autograd, from pre-activations, by CUDA events; all ways of
computing a scan in turns, medians. The floor moves the words that a fused kernel cannot avoid (8
an element for a, b -> h, 9 for minGRU, 12 for minLSTM, in the dtypes that they have) at the rate of
a copy on this device, timed in the same turns. Peers get the same pre-activations in the layout
that they like best; none of them knows resets.

Without one: what each kernel is compiled to for sm_80 and sm_90, in about a minute. Bytes an
element are those that its loop over time loads and stores. A scan over time is "forward" and
"backward"; one in chunks runs the summaries first, and "carry", which is over chunks only.

Needs the extra [rl] and triton; peers that are not installed are named and left out. The last line
is JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks import gpu_kernels
from benchmarks.scan_peers import GATES, INPUTS, OURS, Implementation, implementations
from benchmarks.timing import Measuring, finish, optional, parse_shape, table
from minrnn.interface import state_dtype

DEVICE = "cuda"
LOOP = 1024  # steps of the longest Python loop that is timed
# Words an element that a fused kernel moves, forward and backward: of inputs and their gradients
# in one dtype, and of states (h written and read, its gradient read) in that of the sums.
INPUT_WORDS, STATE_WORDS = {"linear": 5, "mingru": 6, "minlstm": 9}, 3


@dataclass(frozen=True)
class Options(Measuring):
    """What to measure."""

    shapes: tuple[str, ...] = (
        "64x60x256",
        "64x1024x512",
        "512x1024x512",
        "4x4096x512",
        "1x65536x512",
    )
    """Shapes BxTxD."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """Dtypes of the pre-activations."""
    gates: tuple[str, ...] = ("linear", "mingru", "minlstm")
    """Scans to measure."""
    compile_only: bool = False
    """Print statistics of the compiled kernels even if there is a GPU."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, or compile; print the tables, then the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    if torch.cuda.is_available() and not options.compile_only:
        report = {"benchmark": "scan_gpu", "device": device(), "speed": speed(options)}
    else:
        print("No CUDA GPU is used: nothing is timed. What the kernels are compiled to:")
        report = {"benchmark": "scan_gpu", "device": None, "kernels": kernels(options)}
    finish(report, options)


def kernels(options: Options) -> list[dict[str, Any]]:
    """Print statistics of every compiled kernel of these scans, and return them."""
    names = {"linear": "linear-linear", "mingru": "mingru-g", "minlstm": "minlstm-g"}
    cases = tuple(f"{names[gates]}-{dtype}" for gates in options.gates for dtype in options.dtypes)
    found = list(gpu_kernels.inspect(gpu_kernels.Options(cases=cases)))
    header = ["scan", "kernel", "target", "registers", "spilled", "shared", "bytes an access"]
    rows = [
        [
            kernel.case,
            kernel.name,
            f"sm_{kernel.target}",
            *(str(n) for n in (kernel.registers, kernel.spilled, kernel.shared, kernel.narrowest)),
            f"{kernel.moved:g}",
        ]
        for kernel in found
    ]
    _aligned("Compiled kernels", [*header, "bytes an element"], rows)
    return [dataclasses.asdict(kernel) for kernel in found]


def device() -> dict[str, Any]:
    """Print the GPU's name and properties, and return them."""
    import triton

    found = {
        "name": torch.cuda.get_device_name(),
        "multiprocessors": torch.cuda.get_device_properties().multi_processor_count,
        "torch": str(torch.__version__),
        "triton": triton.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in found.items()))
    return found


def speed(options: Options) -> list[dict[str, Any]]:
    """Time every implementation on every shape and dtype; print a table for each kind of gates."""
    rows: list[dict[str, Any]] = []
    for gates in options.gates:
        for dtype in options.dtypes:
            for text in options.shapes:
                shape = parse_shape(text, "B x T x D")
                rows += _speed(gates, getattr(torch, dtype), shape, options)
    for gates in options.gates:
        _aligned(
            f"{gates}: forward and backward",
            ["shape", "dtype", "way", "ms", "quartiles", "GB/s", "x floor"],
            [
                [
                    "x".join(map(str, row["shape"])),
                    row["dtype"],
                    row["way"],
                    f"{row['ms']:.3f}",
                    f"{row['low']:.3f}-{row['high']:.3f}",
                    f"{row['gb_s']:.0f}",
                    f"{row['times_floor']:.2f}",
                ]
                for row in rows
                if row["gates"] == gates
            ],
        )
    return rows


def _speed(
    gates: str, dtype: torch.dtype, shape: tuple[int, ...], options: Options
) -> list[dict[str, Any]]:
    wide = state_dtype(dtype)
    tensors = [torch.randn(shape, device=DEVICE).to(dtype) for _ in range(INPUTS[gates])]
    if gates == "linear":
        tensors[0] = tensors[0].sigmoid()
    grad = torch.randn(shape, device=DEVICE, dtype=wide)
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    cases: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source)}
    for way in ways(gates, shape, options.peers):
        step = _in_their_dtype(way, tensors, grad)
        try:
            step()
        except Exception as error:  # a peer's own limits: one line, and go on
            print(f"left out: {way.name} on {gates} {shape} {dtype}: {str(error).splitlines()[0]}")
            continue
        cases[way.name] = step
    times = timed(cases, options.budget)
    rate = 2 * source.nbytes / times.pop("copy")[1]  # bytes a millisecond
    words = INPUT_WORDS[gates] * dtype.itemsize + STATE_WORDS * grad.element_size()
    moved = words * grad.numel()
    fixed = {"gates": gates, "dtype": str(dtype).removeprefix("torch."), "shape": shape}
    floor = moved / rate
    return [
        {
            "way": name,
            **fixed,
            "ms": middle,
            "low": low,
            "high": high,
            "gb_s": moved / middle / 1e6,
            "times_floor": middle / floor,
        }
        for name, (low, middle, high) in {"floor": (floor,) * 3, **times}.items()
    ]


def _in_their_dtype(way: Implementation, tensors: Sequence[Tensor], grad: Tensor) -> Any:
    # Peers return h in the dtype of the inputs.
    leaves = way.leaves(tensors)
    with torch.no_grad():
        kind = way.run(*leaves).dtype
    return way.step(tensors, grad.to(kind))


def timed(
    cases: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, tuple[float, float, float]]:
    """Return the quartiles (ms) of each case, timed in turns on the device's own clock."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        for _ in range(3):
            case()
    while min(map(len, times.values())) < 5 or sum(map(sum, times.values())) < 1e3 * seconds:
        for name, case in cases.items():
            case()  # its own data in the cache, and the launches ahead of the device
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            case()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end))
    found: dict[str, tuple[float, float, float]] = {}
    for name, ms in times.items():
        low, middle, high = statistics.quantiles(ms, n=4, method="inclusive")
        found[name] = low, middle, high
    return found


def ways(gates: str, shape: tuple[int, ...], peers: bool) -> list[Implementation]:
    """Return the implementations of a scan of this shape, the default first."""
    found = [
        Implementation("minrnn, triton", partial(_ours, OURS[gates], "triton", None)),
        Implementation("minrnn, over time", partial(_ours, OURS[gates], "triton", 2**31)),
        Implementation("minrnn, chunks of 128", partial(_ours, OURS[gates], "triton", 128)),
        Implementation("minrnn, eager", partial(_ours, OURS[gates], "eager", None)),
    ]
    if not peers:
        return found
    kept = {"mingru-pytorch"} | ({"Python loop"} if shape[1] <= LOOP else set())
    found += [way for way in implementations()[gates] if way.name in kept]
    if (module := optional("accelerated_scan.warp", "accelerated-scan")) is not None:
        run = partial(_of_gates, lambda a, b, m=module: m.scan(a, b), GATES[gates])
        found.append(Implementation("accelerated-scan, warp", run, "transposed"))
    if (module := optional("fla.ops.hgrn", "flash-linear-attention")) is not None:
        run = partial(_of_gates, lambda a, b, m=module: m.chunk_hgrn(b, a.log())[0], GATES[gates])
        found.append(Implementation("flash-linear-attention, HGRN", run))
    interface = "mamba_ssm.ops.selective_scan_interface"
    if (module := optional(interface, "mamba-ssm")) is not None:
        run = partial(_of_gates, partial(_mamba, module.selective_scan_fn), GATES[gates])
        found.append(Implementation("mamba-ssm, selective scan", run, "transposed"))
    return found


def _ours(
    function: Callable[..., tuple[Tensor, Tensor]],
    backend: str,
    chunk: int | None,
    *inputs: Tensor,
) -> Tensor:
    # The backward pass follows at once, and finds the same schedule forced.
    module, chosen = _schedule()
    module.chunk_length = chosen if chunk is None else lambda _warps, steps, _sms: min(chunk, steps)
    return function(*inputs, backend=backend)[0]


@functools.cache
def _schedule() -> tuple[Any, Callable[[int, int, int], int]]:
    from minrnn.scan import gpu

    return gpu, gpu.chunk_length


def _of_gates(
    peer: Callable[[Tensor, Tensor], Tensor],
    gates: Callable[..., tuple[Tensor, Tensor]],
    *inputs: Tensor,
) -> Tensor:
    return peer(*gates(*inputs))


def _mamba(selective_scan: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    # Its h_t = exp(delta A) h_{t-1} + delta B u, y = C h, with one state a channel, A = -1 and
    # B = C = 1.
    delta = -a.log()
    width = a.shape[1]
    one = torch.ones(width, 1, device=a.device)
    return selective_scan(b / delta, delta, -one, one, one)


def _aligned(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(n) for cell, n in zip(r, widths, strict=True)] for r in (header, *rows)]
    table(title, lines[0], lines[1:])


if __name__ == "__main__":
    main()
