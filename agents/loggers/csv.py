"""`metrics.csv`: a line for each value, so that every run has the same columns."""

from __future__ import annotations

from collections.abc import Mapping

from agents.loggers.jsonl import TextFile


class Csv(TextFile):
    """The columns update, seconds, metric, value; pandas' `pivot` makes a column of each metric."""

    name = "metrics.csv"
    header = "update,seconds,metric,value\n"

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Append a line for each value."""
        self.file.write("".join(f"{update},{seconds},{name},{v}\n" for name, v in values.items()))
