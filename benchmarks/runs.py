"""What the commands that train share: run train.py once for each folder, and read what it left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = "results.json"
Row = dict[str, Any]
PATIENCE = 20.0
"""Seconds in which a run has to save its state when it is asked to stop."""
_LOOK = 0.1
"""Seconds between looks at whether a run has ended."""


class RunFailed(Exception):
    """A run of train.py ended with an error; the text is its line."""


def results(folder: Path, flags: list[str], *, run: bool = True) -> list[Row] | None:
    """Return the last checkpoint's row for each target; train with `flags` where they are missing.

    A run that was stopped is gone on with. None where there is no finished run and `run` is False.
    """
    from agents.run_folder import finished  # not above: Ray takes `train` to where that is not

    if not finished(folder):
        if not run:
            return None
        try:
            train(folder, flags)
        except RunFailed as error:
            sys.exit(f"error: train.py --run-dir {folder} {' '.join(flags)}: {error}")
    found = rows(folder)
    if not found:
        sys.exit(
            f"error: {folder} was trained with --eval.episodes 0, so that it has no results: "
            "remove it, or choose another --out"
        )
    return found


def rows(folder: Path) -> list[Row]:
    """Return the last checkpoint's row for each target of a finished run.

    None where it was not evaluated (`--eval.episodes 0`).
    """
    return json.loads((folder / RESULTS).read_text())["results"].get("last", [])


def train(folder: Path, flags: list[str], log: Path | None = None) -> None:
    """Begin the run in `folder` with `flags`, or go on with it, to its end.

    What it writes to stderr goes into `log`, its progress bar included; None shows it. Where this
    is broken off, the run is asked to stop, and waited for while it saves its state. Raises
    RunFailed.
    """
    begun = (folder / "config.json").exists()
    command = [sys.executable, "train.py", "--resume" if begun else "--run-dir", str(folder)]
    with contextlib.ExitStack() as stack:
        errors = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            errors = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            [*command, *flags], cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while process.poll() is None:
                time.sleep(_LOOK)  # and not wait(), which Ray could not break off
        finally:
            _stop(process)
    if code := process.returncode:
        raise RunFailed((log and _last_line(log)) or f"ended with {code}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it has not ended: by SIGTERM, or else by SIGKILL."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


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
