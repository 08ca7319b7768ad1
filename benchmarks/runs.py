"""What the commands that train share: run train.py once for each folder, and read what it left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


class RunFailed(Exception):
    """A run of train.py ended with an error; the text is its line."""


def results(folder: Path, flags: list[str], *, run: bool = True) -> list[Row] | None:
    """Return the last checkpoint's row for each target; train with `flags` where they are missing.

    A finished run has `results.json`; one that was stopped is gone on with. None where there is no
    finished run and `run` is False.
    """
    report = folder / "results.json"
    if not report.exists():
        if not run:
            return None
        try:
            train(folder, flags)
        except RunFailed as error:
            sys.exit(f"error: train.py --run-dir {folder} {' '.join(flags)}: {error}")
    return json.loads(report.read_text())["results"]["last"]


def train(folder: Path, flags: list[str], log: Path | None = None) -> None:
    """Begin the run in `folder` with `flags`, or go on with it, to its end.

    What it writes to stderr goes into `log`, its progress bar included; None shows it. Raises
    RunFailed.
    """
    begun = (folder / "config.json").exists()
    command = [sys.executable, "train.py", "--resume" if begun else "--run-dir", str(folder)]
    with contextlib.ExitStack() as stack:
        errors = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            errors = stack.enter_context(log.open("wb"))
        code = subprocess.run(
            [*command, *flags], cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=errors, check=False
        ).returncode
    if code:
        raise RunFailed((log and _last_line(log)) or f"ended with {code}")


def _last_line(log: Path) -> str:
    # That of our own error, or of a traceback; not the progress bar.
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (ours or [line.strip() for line in lines if line.strip()] or [""])[-1]


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
