"""Shared by the commands that train: run train.py once for each folder, and read its results."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = "results.json"
MEDIUM_REPLAY = tuple(
    f"minrnn/{name}/medium-replay-v0" for name in ("hopper", "walker2d", "halfcheetah")
)
"""The data sets that scores are reported on."""
Row = dict[str, Any]
PATIENCE = 20.0
"""Seconds in which a run has to save its state when it is asked to stop."""
_LARGEST = 1e300
"""Upper bound of the numbers in a report: excludes overflow and NaN."""
_LOOK = 0.1
"""Seconds between checks of whether a run has ended."""


class RunFailed(Exception):
    """A run of train.py ended with an error; the text is its message."""


def results(folder: Path, flags: list[str], *, run: bool = True) -> list[Row] | None:
    """Return the last checkpoint's row for each target; train with `flags` where they are missing.

    A run that was stopped is resumed. None where there is no finished run and `run` is False.
    Exits with a message if the run fails or has no results.
    """
    from agents.runs.folder import finished  # late: Ray sends `train` to machines without it

    if not finished(folder):
        if not run:
            return None
        try:
            train(folder, flags)
        except RunFailed as error:
            sys.exit(f"error: train.py --run-dir {folder} {' '.join(flags)}: {error}")
    try:
        found = rows(folder)
    except RunFailed as error:
        sys.exit(f"error: {error}")
    if not found:
        sys.exit(
            f"error: {folder} was trained with --eval.episodes 0, so that it has no results: "
            "remove it, or choose another --out"
        )
    return found


def rows(folder: Path) -> list[Row]:
    """Return the last checkpoint's row for each target of a finished run.

    None of them where it was not evaluated (`--eval.episodes 0`). Raises RunFailed where its report
    is missing or damaged.
    """
    file = folder / RESULTS
    try:
        match json.loads(file.read_bytes()):
            case {"results": {"last": list(found)}} if all(map(_is_row, found)):
                return found
            case {"results": {**others}} if "last" not in others:
                return []
        reason: object = "it is not a report"
    except (OSError, ValueError, RecursionError) as error:
        reason = error
    raise RunFailed(f"{file} is damaged ({reason}): remove it, and the run is evaluated again")


def _is_row(row: object) -> bool:
    match row:
        case {"target": int() | float() as target, "mean": int() | float() as mean, **others}:
            numbers = [target, mean, others.get("score") or 0, others.get("failed") or 0]
            return all(isinstance(n, int | float) and abs(n) < _LARGEST for n in numbers)
    return False


def train(folder: Path, flags: list[str], log: Path | None = None) -> None:
    """Start the run in `folder` with `flags`, or resume it, and finish it.

    Its stderr goes into `log`, progress bar included; None shows it. If this function is
    interrupted, the run is asked to stop, and waited for while it saves its state. Raises
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
                time.sleep(_LOOK)  # not wait(), which Ray could not interrupt
        finally:
            _stop(process)
    if code := process.returncode:
        raise RunFailed((log and _last_line(log)) or f"ended with {code}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that still runs: by SIGTERM, or else by SIGKILL."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    """Return the line with the error: our own message, tyro's, or a traceback's."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")  # progress bars
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if ours := [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]:
        return ours[-1]
    if titles := [number for number, line in enumerate(lines) if line.startswith("╭")]:
        # A box of tyro's: its first part is the error, which may be several lines.
        box = [line.strip("│ ") for line in lines[titles[-1] + 1 :]]
        return " ".join(itertools.takewhile(lambda line: line[:1] not in "─╰", box))
    return lines[-1] if lines else ""


def as_asked(row: Row, best: float) -> bool:
    """Whether the mean return is near the target return.

    Within 15 % of the target, or within 5 % of the data's best return where that is more; for the
    best return itself: at least 85 % of it.
    """
    target, mean = row["target"], row["mean"]
    if target >= best - 1:
        return mean >= best - 0.15 * abs(best)
    return abs(mean - target) <= max(0.15 * abs(target), 0.05 * best)


def calibration(rows: list[Row], best: float) -> str:
    """Return a text: for how many targets the mean return is met, which are missed, what failed."""
    missed = [f"{r['target']:.0f} → {r['mean']:.0f}" for r in rows if not as_asked(r, best)]
    hits = f"{len(rows) - len(missed)} of {len(rows)}"
    return (f"{hits} ({', '.join(missed)})" if missed else hits) + failures(rows)


def failures(rows: list[Row]) -> str:
    """Return a text: how many episodes have no return, as their environment failed; "" for none."""
    failed = sum(row.get("failed", 0) for row in rows)  # missing in older runs
    return f"; {failed} episodes failed and are in no mean" if failed else ""
