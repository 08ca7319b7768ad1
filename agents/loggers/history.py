"""Read `metrics.jsonl` back. It may be damaged or hostile: lines that are not rows are skipped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from agents.loggers.console import say
from agents.loggers.jsonl import Jsonl

LARGEST = 64_000_000  # bytes; the log of ten million updates
LARGEST_NUMBER = 1e100  # larger ones cannot be drawn


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.jsonl`: "update" and numbers, by name; note what is left out."""
    path = folder / Jsonl.name
    if not path.is_file():
        say(f"note   {path} is lost: learning curves lack what was in it")
        return []
    with path.open("rb") as file:
        lines = file.read(LARGEST).decode(errors="replace").split("\n")
        cut = bool(file.read(1))
    if cut:
        lines.pop()
        say(f"note   {path} is larger than {LARGEST} bytes: the rest is left out")
    found = [_row(line) for line in lines if line.strip()]
    rows = [row for row in found if row is not None]
    if skipped := len(found) - len(rows):
        say(f"note   {path}: {skipped} damaged line{'s' * (skipped > 1)} left out")
    return rows


def _row(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(map(_is_number, row.values())):
        return None
    return row if type(row.get("update")) is int else None


def _is_number(value: Any) -> bool:
    # Means over episodes that all failed are NaN, and infinite scores are logged, too.
    return type(value) in (int, float) and not LARGEST_NUMBER <= abs(value) < math.inf
