"""TensorBoard: scalars, figures, and the HPARAMS tab."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from agents.loggers.base import Logger, Start, cut, synced
from agents.loggers.console import say

EVENTS = "events.out.tfevents.*"


class TensorBoard(Logger):
    """Event files in a folder within the run's: `name`."""

    def __init__(self, start: Start, name: str = "tensorboard") -> None:
        self.path, self._settings = start.folder / name, start.settings
        kept = start.position or {}
        files = {path.name: path for path in self.path.glob(EVENTS)}
        for new in files.keys() - kept.keys():
            try:
                files[new].unlink()
            except PermissionError:  # Windows: a TensorBoard is reading it
                os.truncate(files[new], 0)
        if [old for old in kept if old not in files or not cut(files[old], kept[old])]:
            say(f"note   {self.path} has lost events since the state was saved: it now has a gap")
        threading.excepthook = _quiet_about_the_disk
        # A TensorBoard that is watching has read what was cut off, and has to forget it.
        purge = start.update + 1 if start.position else None
        with _after(files):
            self._writer = SummaryWriter(str(self.path), purge_step=purge)

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def figure(self, name: str, figure: Any) -> None:
        """Log a matplotlib figure as an image."""
        self._writer.add_figure(name, figure, close=False)

    def scores(self, values: Mapping[str, float]) -> None:
        """Log scores and hyper-parameters for the HPARAMS tab."""
        # Not by SummaryWriter.add_hparams, which would make another run.
        plain = {k: v if type(v) in (int, float) else str(v) for k, v in self._settings.items()}
        for summary in hparams(plain, dict(values)):
            self._writer._get_file_writer().add_summary(summary)
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._settings["optim.updates"])

    def position(self) -> dict[str, int]:
        """Return the lengths of the event files."""
        self._writer.flush()
        return synced(self.path.glob(EVENTS))

    def close(self, *, failed: bool = False) -> None:
        """Write what is left, and end the writer's thread."""
        self._writer.close()


@contextmanager
def _after(names: Iterable[str]) -> Iterator[None]:
    """Context: a new event file comes after those, even if the clock was set back meanwhile.

    TensorBoard reads files in the order of their names, which begin with the time, and forgets the
    later steps where it reads them first.
    """
    stamps = [int(stamp) for name in names if (stamp := name.split(".")[3]).isdecimal()]
    first = 1 + max(stamps, default=0)
    if time.time() >= first:
        yield
        return
    module: Any = event_file_writer
    clock, told = module.time, iter([first])  # the name is what it asks for first
    module.time = SimpleNamespace(time=lambda: next(told, None) or clock.time())
    try:
        yield
    finally:
        module.time = clock


def _quiet_about_the_disk(arguments: threading.ExceptHookArgs) -> None:
    """Leave errors of TensorBoard's writer thread to the main thread, which meets them too."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)
