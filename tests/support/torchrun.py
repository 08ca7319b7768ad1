"""Start train.py under torchrun, and strike one of its ranks. Needs /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def start(*flags: object, ranks: int = 2, script: object = "train.py") -> subprocess.Popen[str]:
    """Begin a command with so many ranks, which may be started anew three times."""
    launch = [*TORCHRUN, "--nproc-per-node", ranks, "--max-restarts", 3, script, *flags]
    return subprocess.Popen(
        [*map(str, launch)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def strike(
    process: subprocess.Popen[str], folder: Path, update: int, rank: int, number: signal.Signals
) -> None:
    """Send a signal to a rank of the run in `folder` when its state of `update` is saved."""
    while saved(folder) < update or not (victim := pid(process, rank)):
        time.sleep(0.02)
        if process.poll() is not None:
            raise AssertionError(f"ended before update {update}: {process.communicate()[0]}")
    os.kill(victim, number)
    while pid(process, rank) == victim:
        time.sleep(0.02)


def saved(folder: Path) -> int:
    """Return the last update whose state the run has saved."""
    names = [path.name for path in folder.glob("state/[0-9]*")]
    return max((int(name.split("-")[0]) for name in names), default=0)


def pid(process: subprocess.Popen[str], rank: int) -> int | None:
    """Return the number of the process of a rank; None where it is not there."""
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={rank}".encode() in variables:
                return int(child)
    return None
