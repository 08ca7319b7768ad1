"""The results table of benchmarks.grid: one row a run, in a CSV file that is always complete."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.errors import UserError
from envs.files import write_file

FINISHED, FAILED = "finished", "failed"
_MEND = "take the file away; runs that are finished will not be repeated"


class Key(NamedTuple):
    """Identifies a run of a grid."""

    env: str
    backbone: str
    seed: int


@dataclass
class Row:
    """Results of one run; fields are empty if it failed or was not evaluated."""

    env: str
    backbone: str
    seed: int
    status: str
    """FINISHED or FAILED."""
    score: float | None = None
    """Normalised score of the highest target, at the last update; empty without references."""
    target: float | None = None
    """The highest target return."""
    mean: float | None = None
    """Mean return obtained for it."""
    calibration_error: float | None = None
    """Mean distance of obtained and target return, over all targets; a share of the highest one."""
    episodes_failed: int | None = None
    """Episodes of the report in which the environment failed; they count in no mean."""
    seconds: float | None = None
    """Seconds that this command spent on it; less than the whole run if it was resumed."""
    node: str = ""
    folder: str = ""
    error: str = ""

    @property
    def key(self) -> Key:
        """Return what identifies the run."""
        return Key(self.env, self.backbone, self.seed)


class Table:
    """The rows of a CSV file, read at the start, written at each change.

    Raises UserError where the file is of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        if not path.exists():
            return
        try:
            lines = csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
            numbered = [(lines.line_num, cells) for cells in lines]
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be read ({error}): {_MEND}") from None
        for number, cells in numbered:
            try:
                row = _row(cells)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"line {number} of {path} is not a run of a grid ({error}): mend the line, or "
                    f"{_MEND}"
                ) from None
            self.rows[row.key] = row

    def finished(self, key: Key) -> bool:
        """Whether the run is finished."""
        return key in self.rows and self.rows[key].status == FINISHED

    def put(self, row: Row) -> None:
        """Add a row, in place of that of an earlier attempt."""
        self.rows.pop(row.key, None)
        self.rows[row.key] = row
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(each) for each in self.rows.values())
        write_file(self.path, text.getvalue().encode())


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the cells of a finished run from the rows of its report, one for each target.

    None where it was not evaluated.
    """
    if not found:
        return {}
    top = max(found, key=lambda row: row["target"])
    distances = [abs(row["mean"] - row["target"]) for row in found]
    return {
        "score": top.get("score"),
        "target": top["target"],
        "mean": top["mean"],
        "calibration_error": float(np.mean(distances)) / (abs(top["target"]) or 1.0),
        "episodes_failed": sum(row.get("failed", 0) for row in found),
    }


def means(rows: list[Row]) -> Iterator[list[str]]:
    """Yield a line of cells for each data set and backbone: means over the seeds, and failures."""
    for (env, backbone), group in groupby(sorted(rows, key=lambda r: r.key), lambda r: r.key[:2]):
        runs = list(group)
        done = [row for row in runs if row.status == FINISHED]
        cells = [env, backbone, f"{len(done)} of {len(runs)}"]
        for name, form in (("score", ".1f"), ("mean", ".0f"), ("calibration_error", ".1%")):
            values = [value for row in done if (value := getattr(row, name)) is not None]
            spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):{form}}{spread}" if values else "-")
        yield cells


def _row(cells: dict[str, Any]) -> Row:
    if cells.keys() != {field.name for field in fields(Row)}:
        raise ValueError(f"its columns are {', '.join(map(str, cells))}")
    if cells["status"] not in (FINISHED, FAILED):
        raise ValueError(f"its status is {cells['status']!r}")
    values = dict(cells)
    for name in ("score", "target", "mean", "calibration_error", "seconds"):
        values[name] = float(cells[name]) if cells[name] else None
    values["episodes_failed"] = int(cells["episodes_failed"]) if cells["episodes_failed"] else None
    values["seed"] = int(cells["seed"])
    return Row(**values)
