"""The one reporter of a run: progress bar, TensorBoard, `metrics.jsonl`, and lines of text."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from envs.files import write_file

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents.*"


def say(text: str = "") -> None:
    """Print a line above any progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


@contextmanager
def episode_bar(
    name: str, total: int, *, hidden: bool = False
) -> Iterator[Callable[[int, int], object]]:
    """Show a progress bar over `total` episodes; yield the callback that moves it."""
    form = {"unit": "episode", "leave": False, "dynamic_ncols": True}
    with tqdm(total=total, desc=name, disable=hidden, **form) as bar:
        yield lambda done, _total: bar.update(done - bar.n)


class RunLog:
    """Write the metrics of a run to `folder`, and show its progress.

    One JSON object a line in `metrics.jsonl`, flushed at once: a kill loses nothing logged.
    `position` is where the log of the run that is gone on with stood at `update`: what came after
    is cut off, to come again. Errors of the disk name the file.
    """

    def __init__(
        self, folder: Path, total: int, update: int = 0, position: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self._board_folder = folder / "tensorboard"
        seconds = cut(folder / METRICS, self._board_folder, position)
        self._started = time.perf_counter() - seconds
        self._lines = (folder / METRICS).open("a", encoding="utf-8")
        threading.excepthook = _quiet_about_the_disk
        # A TensorBoard that is watching has read what is cut off: it is to forget that.
        purge = update + 1 if position else None
        self._board = SummaryWriter(str(self._board_folder), purge_step=purge)
        self._bar = tqdm(
            total=total,
            initial=update,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            smoothing=0.1,
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        try:
            with _of(self._board_folder):
                self._board.close()
            with _of(self.folder / METRICS):
                self._lines.close()
        except OSError:
            if exception[0] is None:  # else that one is to be told
                raise

    def position(self) -> dict[str, Any]:
        """Return where the log stands, fit for JSON; what is before is on the disk."""
        with _of(self._board_folder):
            self._board.flush()
        files = sorted(self._board_folder.glob(EVENTS))
        for path in (self.folder / METRICS, *files):
            with _of(path), path.open("rb") as file:
                os.fsync(file.fileno())
        return {
            "seconds": time.perf_counter() - self._started,
            "metrics": (self.folder / METRICS).stat().st_size,
            "tensorboard": {path.name: path.stat().st_size for path in files},
        }

    def metrics(self, update: int, prefix: str, values: dict[str, float]) -> None:
        """Log `values` at `update` as `prefix/name`, everywhere."""
        row: dict[str, Any] = {"update": update, "seconds": time.perf_counter() - self._started}
        for name, value in values.items():
            row[f"{prefix}/{name}"] = value
            with _of(self._board_folder):
                self._board.add_scalar(f"{prefix}/{name}", value, update)
        with _of(self.folder / METRICS):
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
        with _of(self._board_folder):
            self._board.add_figure(name, figure, close=False)


def checked(position: Mapping[str, Any]) -> dict[str, Any]:
    """Return a position from a file; KeyError, TypeError or ValueError where it is none."""
    sizes = {name: int(size) for name, size in dict(position["tensorboard"]).items()}
    metrics = int(position["metrics"])
    if min(metrics, *sizes.values(), 0) < 0:
        raise ValueError("a length of the log is negative")
    return {"seconds": float(position["seconds"]), "metrics": metrics, "tensorboard": sizes}


def cut(lines: Path, board: Path, position: Mapping[str, Any] | None) -> float:
    """Cut a log to where it stood (see RunLog.position; None is the beginning); return its seconds.

    What is missing of it is no reason to lose the run: it is noted, and the log has a gap.
    """
    position = position or {"seconds": 0.0, "metrics": 0, "tensorboard": {}}
    size = lines.stat().st_size if lines.exists() else 0
    if size < position["metrics"]:
        say(f"note   {lines} has lost lines since the state was saved: it has a gap from here on")
        with lines.open("ab+") as file:  # the last line may be half
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
    elif size:
        os.truncate(lines, position["metrics"])
    sizes = {path.name: path.stat().st_size for path in board.glob(EVENTS)}
    kept = position["tensorboard"]
    if any(sizes.get(name, 0) < keep for name, keep in kept.items()):
        say(f"note   {board} has lost events since the state was saved: it has a gap from here on")
    for name, size in sizes.items():
        if not kept.get(name, 0):
            (board / name).unlink()
        elif size > kept[name]:
            os.truncate(board / name, kept[name])
    return float(position["seconds"])


@contextmanager
def _of(path: Path) -> Iterator[None]:
    """Context: an error of the disk names its file, which that of a write does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _quiet_about_the_disk(arguments: threading.ExceptHookArgs) -> None:
    """Leave it to the main thread, which meets the error of TensorBoard's writer thread too."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)
