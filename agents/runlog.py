"""The one reporter of a run: progress bar, TensorBoard, `metrics.jsonl`, and lines of text."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from agents.checkpoint import write_file


def say(text: str = "") -> None:
    """Print a line above any progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


@contextmanager
def episode_bar(name: str, total: int) -> Iterator[Callable[[int, int], object]]:
    """Show a progress bar over `total` episodes; yield the callback that moves it."""
    with tqdm(total=total, desc=name, unit="episode", leave=False, dynamic_ncols=True) as bar:
        yield lambda done, _total: bar.update(done - bar.n)


class RunLog:
    """Write the metrics of a run to `folder`, and show its progress.

    One JSON object a line in `metrics.jsonl`, flushed at once: a kill loses nothing logged.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder = folder
        self._started = time.perf_counter()
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        threading.excepthook = _quiet_about_the_disk
        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._bar = tqdm(total=total, desc="train", unit="step", dynamic_ncols=True, smoothing=0.1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        self._board.close()
        self._lines.close()

    def metrics(self, update: int, prefix: str, values: dict[str, float]) -> None:
        """Log `values` at `update` as `prefix/name`, everywhere."""
        row: dict[str, Any] = {"update": update, "seconds": time.perf_counter() - self._started}
        for name, value in values.items():
            row[f"{prefix}/{name}"] = value
            self._board.add_scalar(f"{prefix}/{name}", value, update)
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()

    def advance(self, update: int, loss: float) -> None:
        """Move the bar to `update`; it shows the loss, steps a second and the time left."""
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update(update - self._bar.n)

    def figure(self, name: str, figure: Any) -> None:
        """Save a matplotlib figure as PNG in the run's folder, and to TensorBoard."""
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
        write_file(self.folder / f"{name}.png", image.getvalue())
        self._board.add_figure(name, figure, close=False)


def _quiet_about_the_disk(arguments: threading.ExceptHookArgs) -> None:
    """Leave it to the main thread, which meets the error of TensorBoard's writer thread too."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.jsonl`; a last line cut short by a kill is left out."""
    rows = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
