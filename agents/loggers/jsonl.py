"""The log that is always written: `metrics.jsonl`, and figures as PNG files beside it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any

from agents.loggers.base import Logger, Start, naming, synced
from agents.loggers.console import say
from envs.files import write_file


class TextFile(Logger):
    """A logger that appends lines to a file, each flushed at once: a kill loses none."""

    name: str
    header = ""

    def __init__(self, start: Start) -> None:
        self.folder, self.path = start.folder, start.folder / self.name
        self._cut((start.position or {}).get(self.name, 0))
        self._file = self.path.open("a", encoding="utf-8", newline="")
        if not self._file.tell():
            self.write(self.header)

    def write(self, text: str) -> None:
        """Append whole lines."""
        with naming(self.path):
            self._file.write(text)
            self._file.flush()

    def position(self) -> dict[str, int]:
        """Return the length of the file."""
        return synced([self.path])

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        with naming(self.path):
            self._file.close()

    def _cut(self, length: int) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < length:
            say(f"note   {self.path} has lost lines since the state was saved: it now has a gap")
            with self.path.open("ab+") as file:  # the last line may be half
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        elif size:
            os.truncate(self.path, length)


class Jsonl(TextFile):
    """One JSON object a line: the update, the seconds since the beginning, and metrics by name."""

    name = "metrics.jsonl"

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Append a line."""
        self.write(json.dumps({"update": update, "seconds": seconds, **values}) + "\n")

    def figure(self, name: str, figure: Any) -> None:
        """Save a matplotlib figure as PNG in the run's folder."""
        write_file(self.folder / f"{name}.png", png(figure))


def png(figure: Any) -> bytes:
    """Return a matplotlib figure as the content of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
