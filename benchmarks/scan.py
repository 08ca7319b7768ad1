"""Speed and accuracy of the scans: `python -m benchmarks.scan`, in about five minutes.

speed: forward and backward of the scans alone, through autograd, from pre-activations. The memory
floor is the time of `torch.add(x, y, out=z)`, which moves three words an element, scaled to the
words that a fused kernel cannot avoid: 8 for a, b -> h (forward: reads 2, writes 1; backward: reads
a, h, grad_h, writes 2), 9 for minGRU (3 + 6) and 12 for minLSTM (4 + 8). It is timed in the same
turns as the kernels. Peers get the same pre-activations in the layout that they like best.
accuracy: float32 against a loop in float64, outputs and gradients, as relative L2 errors.
layers: whole layers with their Linears, input gradient included, at both float32 precisions.
length: time an element as T grows, at the same number of elements.
saved: what autograd keeps for the backward pass, beyond the inputs, in bytes an element.

Needs the extra [rl]; peers that are not installed are named and left out. The last line is JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from benchmarks.scan_peers import GATES, INPUTS, Implementation, implementations
from benchmarks.timing import (
    Measuring,
    Timing,
    aims,
    finish,
    interleaved,
    optional,
    parse_shape,
    start,
    table,
)
from minrnn import MinGRU, MinLSTM
from minrnn.scan.reference import loop_scan

# What a fused kernel reads and writes, forward and backward, for an element.
WORDS = {"linear": 8, "mingru": 9, "minlstm": 12}
FLOOR_AIM = {"mingru": 2.0, "minlstm": 2.2}
TITLES = {"linear": "a, b -> h", "mingru": "minGRU", "minlstm": "minLSTM"}
PEER = "mingru-pytorch"
Part = Literal["speed", "accuracy", "layers", "length", "saved"]
Ways = dict[str, list[Implementation]]


@dataclass(frozen=True)
class Options(Measuring):
    """What to measure."""

    parts: tuple[Part, ...] = ("speed", "accuracy", "layers", "length", "saved")
    """Which of the parts to run."""
    shapes: tuple[str, ...] = (
        "64x60x256",
        "64x256x256",
        "16x1024x512",
        "4x4096x512",
        "1x16384x256",
    )
    """Shapes BxTxD of `speed`, and of `layers` where T <= 1024."""
    accuracy_shape: str = "4x4096x64"
    """Shape BxTxD of `accuracy` and `saved`."""
    lengths: tuple[int, ...] = (64, 1024, 65536)
    """Lengths T of `length`; the longest gets one row."""
    width: int = 256
    """Width D of `length`."""


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, then the JSON line."""
    options = tyro.cli(Options, description=__doc__, args=arguments)
    shapes = [parse_shape(text, "B x T x D") for text in options.shapes]
    accuracy_shape = parse_shape(options.accuracy_shape, "B x T x D")
    report: dict[str, Any] = {"benchmark": "scan", "machine": start(options)}
    ways = implementations(options.peers)
    checks: list[tuple[str, float, Sequence[float]]] = []
    if "speed" in options.parts:
        report["speed"] = speed(shapes, ways, options.budget, checks)
    if "accuracy" in options.parts:
        report["accuracy"] = accuracy(accuracy_shape, ways, checks)
    if "layers" in options.parts:
        short = [shape for shape in shapes if shape[1] <= 1024]
        report["layers"] = layers(short, options, checks)
    if "length" in options.parts:
        report["length"] = length(options, checks)
    if "saved" in options.parts:
        report["saved"] = saved(accuracy_shape, ways, checks)
    report["aims"] = aims(checks)
    finish(report, options)


def speed(
    shapes: Sequence[tuple[int, ...]], ways: Ways, seconds: float, checks: list[Any]
) -> list[dict[str, Any]]:
    """Time every implementation on every shape."""
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        inputs, grad = [torch.randn(shape) for _ in range(3)], torch.randn(shape)
        cases: dict[str, Callable[[], object]] = {"add": add(shape)}
        for gates, found in ways.items():
            given = _inputs(gates, inputs)
            cases |= {f"{gates}: {way.name}": way.step(given, grad) for way in found}
        times = interleaved(cases, seconds, "x".join(map(str, shape)))
        for gates, found in ways.items():
            least = times["add"].ms * WORDS[gates] / 3
            fixed = {"shape": shape, "gates": gates, "floor_ms": least}
            for way in found:
                timing = times[f"{gates}: {way.name}"]
                times_floor = timing.ms / least
                rows.append(
                    {"name": way.name, **fixed, **asdict(timing), "times_floor": times_floor}
                )
    for gates, found in ways.items():
        table(
            f"{TITLES[gates]}, forward and backward: ms (x memory floor)",
            ["", *("x".join(map(str, shape)) for shape in shapes)],
            [
                ["memory floor", *(f"{row['floor_ms']:.2f}" for row in _of(rows, gates, found[0]))],
                *(
                    [
                        way.name,
                        *(
                            f"{row['ms']:.2f} ({row['times_floor']:.1f})"
                            for row in _of(rows, gates, way)
                        ),
                    ]
                    for way in found
                ),
            ],
        )
        ours, peer = _of(rows, gates, found[0]), [r for r in _of(rows, gates) if r["name"] == PEER]
        if gates in FLOOR_AIM:
            ratios = [row["times_floor"] for row in ours]
            checks.append((f"{TITLES[gates]} over its floor <=", FLOOR_AIM[gates], ratios))
            faster = [slow["ms"] / fast["ms"] for slow, fast in zip(peer, ours, strict=False)]
            checks.append((f"{TITLES[gates]} faster than {PEER} >=", 40, faster))
    return rows


def add(shape: tuple[int, ...]) -> Callable[[], None]:
    """Return a function that moves three words an element."""
    x, y, z = (torch.randn(shape) for _ in range(3))

    def move() -> None:
        torch.add(x, y, out=z)

    return move


def _inputs(gates: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    # A decay a is between 0 and 1; everything else is a pre-activation.
    first, *others = tensors[: INPUTS[gates]]
    return [torch.sigmoid(first) if gates == "linear" else first, *others]


def _of(rows: list[dict[str, Any]], gates: str, way: Implementation | None = None) -> list[Any]:
    return [r for r in rows if r["gates"] == gates and (way is None or r["name"] == way.name)]


def accuracy(shape: tuple[int, ...], ways: Ways, checks: list[Any]) -> list[dict[str, Any]]:
    """Compare outputs and gradients in float32 with those of a loop in float64."""
    torch.manual_seed(0)  # the same errors, whatever ran before
    rows: list[dict[str, Any]] = []
    inputs, grad = [torch.randn(shape) for _ in range(3)], torch.randn(shape)
    for gates, found in ways.items():
        given = _inputs(gates, inputs)
        exact = [x.double().requires_grad_() for x in given]
        h, _ = loop_scan(*GATES[gates](*exact))
        wanted = [h.detach(), *torch.autograd.grad(h, exact, grad.double())]
        for way in found:
            h, *grads = way.step(given, grad)()
            got = [way.state(h), *way.gradients(grads, len(given))]
            errors = [relative_error(x, y) for x, y in zip(got, wanted, strict=True)]
            rows.append(
                {
                    "gates": gates,
                    "name": way.name,
                    "output": errors[0],
                    "gradient": max(errors[1:]),
                }
            )
    table(
        f"Relative L2 error in float32 at T = {shape[1]}: output, worst gradient",
        ["", *(TITLES[gates] for gates in ways)],
        [
            [name, *(_errors(rows, gates, name) for gates in ways)]
            for name in dict.fromkeys(row["name"] for row in rows)
        ],
    )
    for gates in FLOOR_AIM:
        ours, peer = _of(rows, gates), [r for r in _of(rows, gates) if r["name"] == PEER]
        for what in ("output", "gradient"):
            ratios = [row[what] / ours[0][what] for row in peer]
            checks.append((f"error of {PEER}'s {TITLES[gates]} over ours, {what} >=", 1e3, ratios))
    return rows


def _errors(rows: list[dict[str, Any]], gates: str, name: str) -> str:
    found = [row for row in _of(rows, gates) if row["name"] == name]
    return f"{found[0]['output']:.1e}, {found[0]['gradient']:.1e}" if found else ""


def relative_error(x: Tensor, exact: Tensor) -> float:
    """Return |x - exact| / |exact| in the L2 norm."""
    return ((x.double() - exact).norm() / exact.norm()).item()


def layers(
    shapes: Sequence[tuple[int, ...]], options: Options, checks: list[Any]
) -> list[dict[str, Any]]:
    """Time whole layers of hidden size D on inputs of width D."""
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "minrnn.MinGRU": MinGRU,
        "minrnn.MinLSTM": MinLSTM,
        "nn.GRU": lambda dim: nn.GRU(dim, dim, batch_first=True),
        "nn.LSTM": lambda dim: nn.LSTM(dim, dim, batch_first=True),
    }
    if options.peers and (module := optional("minGRU_pytorch.minGRU", PEER)) is not None:
        kinds[f"{PEER} minGRU"] = module.minGRU
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
        built = {name: kind(shape[2]) for name, kind in kinds.items()}
        cases = {
            f"{name}, {precision}": layer_step(layer, x, grad, precision)
            for name, layer in built.items()
            for precision in ("highest", "medium")
        }
        times = interleaved(cases, options.budget, f"layers {'x'.join(map(str, shape))}")
        torch.set_float32_matmul_precision("medium")
        rows += [{"shape": shape, "name": name, **asdict(times[name])} for name in cases]
    names = list(dict.fromkeys(row["name"] for row in rows))
    by_name = {name: [row["ms"] for row in rows if row["name"] == name] for name in names}
    table(
        "Whole layers, forward and backward: ms, at each precision of float32 products",
        ["", *("x".join(map(str, shape)) for shape in shapes)],
        [[name, *(f"{ms:.2f}" for ms in by_name[name])] for name in names],
    )
    for kind, limit in (("GRU", 3.0), ("LSTM", 1.8)):
        for precision in ("highest", "medium"):
            ours = by_name.get(f"minrnn.Min{kind}, {precision}", [])
            theirs = by_name.get(f"nn.{kind}, {precision}", [])
            faster = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
            checks.append((f"Min{kind} faster than nn.{kind}, {precision} >=", limit, faster))
    return rows


def layer_step(layer: nn.Module, x: Tensor, grad: Tensor, precision: str) -> Callable[[], object]:
    """Return a function that runs a layer forward and backward once at a precision."""
    leaves = [x, *layer.parameters()]

    def forward_and_backward() -> object:
        torch.set_float32_matmul_precision(precision)
        out = layer(x)
        y = out[0] if isinstance(out, tuple) else out
        return torch.autograd.grad(y, leaves, grad)

    return forward_and_backward


def length(options: Options, checks: list[Any]) -> list[dict[str, Any]]:
    """Time fused minGRU on the same number of elements in ever longer rows."""
    longest = max(options.lengths)
    cases, shapes = {}, {}
    ways = implementations(peers=False)["mingru"]
    for steps in sorted(options.lengths):
        shape = (max(1, longest // steps), steps, options.width)
        inputs, grad = [torch.randn(shape) for _ in range(2)], torch.randn(shape)
        for way in ways:
            shapes[way.name, steps] = shape
            cases[f"{way.name}, {steps}"] = way.step(inputs, grad)
    times: dict[str, Timing] = interleaved(cases, options.budget, "length")
    rows = [
        {"shape": shape, "name": name, "steps": steps, **asdict(times[f"{name}, {steps}"])}
        for (name, steps), shape in shapes.items()
    ]
    for row in rows:
        batch, steps, width = row["shape"]
        row["ns_per_element"] = 1e6 * row["ms"] / (batch * steps * width)
    table(
        f"minGRU, forward and backward, D = {options.width}: ns an element",
        ["", *(f"T = {steps}" for steps in sorted(options.lengths))],
        [
            [way.name, *(f"{r['ns_per_element']:.2f}" for r in rows if r["name"] == way.name)]
            for way in ways
        ],
    )
    ours = [row["ns_per_element"] for row in rows if row["name"] == ways[0].name]
    what = f"time an element, T = {longest} over T = {min(options.lengths)} <="
    checks.append((what, 1.3, [ours[-1] / ours[0]]))
    return rows


def saved(shape: tuple[int, ...], ways: Ways, checks: list[Any]) -> list[dict[str, Any]]:
    """Count what each implementation keeps for its backward pass."""
    inputs = [torch.randn(shape) for _ in range(3)]
    rows = [
        {"gates": gates, "name": way.name, "bytes_per_element": saved_bytes(way, given)}
        for gates, found in ways.items()
        for given in [_inputs(gates, inputs)]
        for way in found
    ]
    names = list(dict.fromkeys(row["name"] for row in rows))
    table(
        "Saved for the backward pass beyond the inputs (h included): bytes an element",
        ["", *(TITLES[gates] for gates in ways)],
        [
            [
                name,
                *(
                    "".join(
                        f"{r['bytes_per_element']:.1f}"
                        for r in _of(rows, gates)
                        if r["name"] == name
                    )
                    for gates in ways
                ),
            ]
            for name in names
        ],
    )
    ours = [_of(rows, gates, found[0])[0]["bytes_per_element"] for gates, found in ways.items()]
    checks.append(("bytes saved an element (h has 4) <=", 4.1, ours))
    return rows


def saved_bytes(way: Implementation, inputs: Sequence[Tensor]) -> float:
    """Return the bytes of the storages saved by one forward pass, an element of h."""
    leaves = way.leaves(inputs)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        h = way.run(*leaves)
    own = {x.untyped_storage().data_ptr() for x in leaves}
    return sum(s.nbytes() for place, s in kept.items() if place not in own) / h.numel()


if __name__ == "__main__":
    main()
