"""Train and evaluate again and again in one process, and watch what it holds.

    python -m tests.tools.soak --minutes 60 --out runs/soak

Every round trains a small agent with train.py's main, resumes the finished run, evaluates it with
evaluate.py's (every third time over two processes), and measures memory, file handles, threads,
child processes, shared memory and live environments. Rows go to OUT/soak.jsonl as they are made,
and OUT/soak.png shows them. The exit code is 1 if something grows: memory in the last quarter by
more than 3 % over the second, or any of the counts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

COUNTS = ("handles", "threads", "children", "shared", "environments")
SETTINGS = (
    ["--model.backbone", "mingru"],
    ["--model.backbone", "minlstm", "--data.rows", "packed"],
    ["--model.backbone", "attention", "--model.cell", "window", "8", "num_heads", "1"],
    ["--model.backbone", "mamba", "--eval.memory", "window"],
)
TARGETS = ["--eval.targets", "20", "60"]


def main() -> int:
    """Run for the given time; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Train and evaluate repeatedly, and report what grows."
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes to run for")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder of the rows")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MINARI_DATASETS_PATH"] = f"{scratch}/minari"
        make_data()
        rows = soak(60 * options.minutes, Path(scratch), options.out / "soak.jsonl")
    draw(rows, options.out / "soak.png")
    grown = growth(rows)
    for name, values in summary(rows).items():
        told = f"second quarter {values[0]:>8.1f}   last quarter {values[1]:>8.1f}"
        sys.stdout.write(f"{name:<13} {told}\n")
    told = f"{len(rows)} rounds in {rows[-1]['seconds'] / 60:.1f} min"
    sys.stdout.write(f"{told}; grown: {grown or 'nothing'}\n")
    return bool(grown)


def make_data() -> None:
    """Write random episodes of Hopper."""
    from tests.tools import kills

    kills.make_data()


def soak(seconds: float, scratch: Path, log: Path) -> list[dict[str, Any]]:
    """Return a row for each round."""
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as lines:
        while time.perf_counter() - start < seconds or len(rows) < 8:
            one_round(len(rows), scratch / "run")
            rows.append({"round": len(rows), "seconds": time.perf_counter() - start, **held()})
            lines.write(json.dumps(rows[-1]) + "\n")
            lines.flush()
            left = max(0.0, seconds - rows[-1]["seconds"])
            sys.stderr.write(f"\rround {len(rows)}, {left / 60:.0f} min to go ")
    sys.stderr.write("\n")
    return rows


def one_round(number: int, folder: Path) -> None:
    """Train, resume the finished run, evaluate, and remove it."""
    import evaluate
    import train
    from tests.tools.kills import DATA

    setting = SETTINGS[number % len(SETTINGS)]
    flags = ["--preset", "smoke", "--env", DATA, "--run-dir", str(folder), "--seed", str(number)]
    procs = ["--num-procs", "2" if number % 3 == 2 else "1"]
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        train.main([*flags, *setting, *TARGETS])
        train.main(["--resume", str(folder)])
        evaluate.main([str(folder), "--episodes", "4", *procs])
    shutil.rmtree(folder)


def held() -> dict[str, float]:
    """Return this process's memory in MiB, and the counts of everything else."""
    import gymnasium

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what is freed, up to 1 GiB
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    shared = Path("/dev/shm")
    return {
        "memory": pages * os.sysconf("SC_PAGESIZE") / 2**20,
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(multiprocessing.active_children()),
        "shared": len(list(shared.iterdir())) if shared.is_dir() else 0,
        "environments": sum(issubclass(type(thing), gymnasium.Env) for thing in gc.get_objects()),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the medians of the second and of the last quarter, by name."""
    quarter = max(1, len(rows) // 4)
    before, after = rows[quarter : 2 * quarter], rows[-quarter:]
    return {
        name: (
            float(np.median([row[name] for row in before])),
            float(np.median([row[name] for row in after])),
        )
        for name in ("memory", *COUNTS)
    }


def growth(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the figures that have grown: medians of the second and of the last quarter."""
    return {
        name: (before, after)
        for name, (before, after) in summary(rows).items()
        if after > before * (1.03 if name == "memory" else 1)
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot memory over time, and the counts below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    memory, counts = figure.subplots(2, 1, sharex=True)
    minutes = [row["seconds"] / 60 for row in rows]
    memory.plot(minutes, [row["memory"] for row in rows])
    memory.set(ylabel="memory, MiB", title=f"{len(rows)} rounds of training and evaluation")
    memory.set_ylim(0, 1.2 * max(row["memory"] for row in rows))
    for name in COUNTS:
        counts.plot(minutes, [row[name] for row in rows], label=name)
    counts.set(xlabel="minutes", ylabel="number")
    counts.legend(ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
