"""What the commands that train share: run train.py once for each folder, and read what it left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def results(folder: Path, flags: list[str], *, run: bool = True) -> list[Row] | None:
    """Return the last checkpoint's row for each target; train with `flags` where there is no run.

    A finished run has `results.json`; what an unfinished one left is removed. None where there is
    no run and `run` is False.
    """
    report = folder / "results.json"
    if not report.exists():
        if not run:
            return None
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "train.py", "--run-dir", str(folder), *flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")
    return json.loads(report.read_text())["results"]["last"]


def as_asked(row: Row, best: float) -> bool:
    """Whether the mean return is as asked.

    Within 15 % of the target, or within 5 % of the data's best return where that is more; for the
    best return itself: at least 85 % of it.
    """
    target, mean = row["target"], row["mean"]
    if target >= best - 1:
        return mean >= best - 0.15 * abs(best)
    return abs(mean - target) <= max(0.15 * abs(target), 0.05 * best)


def calibration(rows: list[Row], best: float) -> str:
    """Say for how many targets the mean return is as asked, which are not, and what failed."""
    missed = [f"{r['target']:.0f} → {r['mean']:.0f}" for r in rows if not as_asked(r, best)]
    hits = f"{len(rows) - len(missed)} of {len(rows)}"
    return (f"{hits} ({', '.join(missed)})" if missed else hits) + failures(rows)


def failures(rows: list[Row]) -> str:
    """Say how many episodes have no return, as their environment failed; "" for none."""
    failed = sum(row.get("failed", 0) for row in rows)  # older runs do not know
    return f"; {failed} episodes failed and are in no mean" if failed else ""
