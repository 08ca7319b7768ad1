"""Shared by the commands that time: interleaved medians, the machine, tables, one line of JSON.

Cases are timed in turns in one process, so that a busy spell of the machine hits all of them, and
the medians of their calls are compared. A turn of a fast case is three calls that are not timed and
then five that are: it takes that many until the buffers of a case have replaced those of the others
in a large cache. Slow cases have one call a turn, and fewer turns, spread evenly. On one thread the
time is the CPU time of the process; the share of time that it waited for a core is reported apart,
as `waited`. Threads, matmul precision and the reuse of large buffers are the trainer's
(`agents.machine.device.configure`): without the last, the page faults of fresh tensors cost more
than the arithmetic of a fast kernel.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tqdm import tqdm

from agents.machine import device

MIN_TURNS, MAX_TURNS = 3, 20
FAST = 0.05  # seconds
UNTIMED, TIMED = 3, 5  # calls in a turn of a fast case


@dataclass(frozen=True)
class Measuring:
    """Options of every command that times."""

    threads: int = 1
    """CPU threads for torch."""
    seconds: float = 1.0
    """Seconds to spend on each case; every case is timed at least three times."""
    quick: bool = False
    """Spend a tenth of the time, for a first look."""
    peers: bool = True
    """With --no-peers: measure this project alone."""
    json: Path | None = None
    """Also write the JSON line to this file."""

    @property
    def budget(self) -> float:
        """Seconds for each case."""
        return self.seconds / 10 if self.quick else self.seconds


@dataclass(frozen=True)
class Timing:
    """Time of a case."""

    ms: float
    """Median, in milliseconds."""
    low: float
    high: float
    """Quartiles."""
    calls: int
    """Number of timed calls."""
    waited: float
    """Share of the time in which the process had no core: near 0 on a machine that is not busy."""


def interleaved(
    cases: Mapping[str, Callable[[], object]], seconds: float, label: str
) -> dict[str, Timing]:
    """Time every case for about `seconds`, in turns, behind a progress bar on stderr."""
    plans: dict[str, tuple[int, int, int]] = {}  # turns, untimed and timed calls in each
    for name, case in _bar(cases.items(), f"{label}: warm up", len(cases)):
        case()  # compiles, allocates
        cost, _ = _clock(case)
        untimed, timed = (UNTIMED, TIMED) if cost < FAST else (0, 1)
        turns = round(seconds / (cost * (untimed + timed)))
        plans[name] = min(MAX_TURNS, max(MIN_TURNS, turns)), untimed, timed
    rounds = max(turns for turns, _, _ in plans.values())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    try:
        total = sum(turns for turns, _, _ in plans.values())
        with _bar(None, label, total) as bar:
            for turn in range(rounds):
                for name, case in cases.items():
                    turns, untimed, timed = plans[name]
                    if (turn + 1) * turns // rounds == turn * turns // rounds:
                        continue
                    for _ in range(untimed):
                        case()
                    times[name] += [_clock(case) for _ in range(timed)]
                    bar.update()
    finally:
        gc.enable()
    timings = {name: _summary(found) for name, found in times.items()}
    waited = statistics.fmean(timing.waited for timing in timings.values())
    if waited > 0.1:
        print(f"{label}: the machine is busy, {waited:.0%} of the time went by waiting for a core")
    return timings


def _bar(items: Iterable[Any] | None, label: str, total: int) -> tqdm:
    # On a terminal only (disable=None): a log would fill with every state of the bar.
    return tqdm(items, label, total, leave=False, file=sys.stderr, disable=None)


def _clock(case: Callable[[], object]) -> tuple[float, float]:
    # Wall-clock seconds, and CPU seconds of the process and its threads.
    start, own = time.perf_counter(), time.process_time()
    case()
    return time.perf_counter() - start, time.process_time() - own


def _summary(times: list[tuple[float, float]]) -> Timing:
    alone = torch.get_num_threads() == 1
    seconds = [own if alone else wall for wall, own in times]
    low, middle, high = (1e3 * s for s in statistics.quantiles(seconds, n=4, method="inclusive"))
    running = sum(own for _, own in times) / sum(wall for wall, _ in times)
    return Timing(middle, low, high, len(times), max(0.0, 1 - running))


def start(options: Measuring) -> dict[str, Any]:
    """Configure the machine as the trainer does; print and return its description."""
    device.configure(options.threads)
    precisions = {name: products(name) for name in ("highest", "medium")}
    torch.set_float32_matmul_precision("medium")
    machine = {
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "float32_products": precisions,
    }
    print(f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}")
    for name, found in precisions.items():
        print(
            f"float32 products at precision {name!r}: {found['gflops']:.0f} GFLOP/s, "
            f"relative error {found['error']:.1e}"
        )
    return machine


def products(precision: str) -> dict[str, float]:
    """Return the rate (GFLOP/s) and the relative error of float32 matrix products here.

    "medium", the trainer's, may multiply in bfloat16: on CPUs with AMX it does (error 2e-3).
    """
    torch.set_float32_matmul_precision(precision)
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(1280, 128, generator=generator), torch.randn(128, 512, generator=generator)
    exact = x.double() @ w.double()
    error = ((x @ w) - exact).norm() / exact.norm()
    seconds = statistics.median(_clock(lambda: x @ w)[0] for _ in range(20))
    return {"gflops": 2e-9 * exact.numel() * x.shape[1] / seconds, "error": error.item()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def optional(module: str, package: str) -> ModuleType | None:
    """Import a peer, or print how to install it and return None."""
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"left out: {package} (pip install {package})")
        return None


def parse_shape(text: str, names: str) -> tuple[int, ...]:
    """Return the numbers of, say, "64x60x256"; errors show `names` ("B x T x D")."""
    parts = text.split("x")
    if len(parts) != len(names.split("x")) or not all(p.isdigit() and int(p) for p in parts):
        sys.exit(f"error: {text!r} is not a shape: write {names.replace(' ', '')} in numbers")
    return tuple(int(part) for part in parts)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def aims(rows: Iterable[tuple[str, float, Sequence[float]]]) -> list[dict[str, Any]]:
    """Print which aims are met, and return them: (what, limit, measured).

    A measured value must be at least the limit, or at most the limit where `what` ends in "<=".
    """
    found: list[dict[str, Any]] = []
    for what, limit, measured in rows:
        if measured:
            below = what.endswith("<=")
            met = [value <= limit if below else value >= limit for value in measured]
            found.append({"aim": what, "limit": limit, "measured": list(measured), "met": all(met)})
    table(
        "Aims",
        ["aim", "measured", ""],
        (
            (
                f"{row['aim']} {row['limit']:g}",
                ", ".join(f"{value:.3g}" for value in row["measured"]),
                "met" if row["met"] else "missed",
            )
            for row in found
        ),
    )
    return found


def finish(report: Mapping[str, Any], options: Measuring) -> None:
    """Print the report as one line of JSON, the last."""
    line = json.dumps(report)
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(f"\n{line}", flush=True)
