"""`metrics.csv`: a line for each value, so that every run has the same columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from agents.loggers.jsonl import TextFile


class Csv(TextFile):
    """The columns update, seconds, metric, value; pandas' `pivot` makes a column of each metric."""

    name = "metrics.csv"
    header = "update,seconds,metric,value\n"

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Append a line for each value."""
        rows = ((update, seconds, name, value) for name, value in values.items())
        csv.writer(self.file, lineterminator="\n").writerows(rows)
