"""The log that is always written: `metrics.jsonl`, and figures as PNG files beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from agents.loggers.base import Logger, Start, cut, synced
from agents.loggers.console import say
from envs.files import write_file


class TextFile(Logger):
    """A logger that appends lines to a file, each flushed at once: a kill loses none."""

    name: str
    header = ""

    def __init__(self, start: Start) -> None:
        self.path = start.folder / self.name
        if not cut(self.path, (start.position or {}).get(self.name, 0)):
            say(f"note   {self.path} has lost lines since the state was saved: it now has a gap")
            with self.path.open("ab+") as file:  # the last line may be half
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        self.file = self.path.open("a", buffering=1, encoding="utf-8", newline="")
        if not self.file.tell():
            self.file.write(self.header)

    def position(self) -> dict[str, int]:
        """Return the length of the file."""
        return synced([self.path])

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        self.file.close()


class Jsonl(TextFile):
    """One JSON object a line: the update, the seconds since the beginning, and metrics by name."""

    name = "metrics.jsonl"

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Append a line."""
        self.file.write(json.dumps({"update": update, "seconds": seconds, **values}) + "\n")

    def figure(self, name: str, figure: Any) -> None:
        """Save a matplotlib figure as PNG in the run's folder."""
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
        write_file(self.path.with_name(f"{name}.png"), image.getvalue())
