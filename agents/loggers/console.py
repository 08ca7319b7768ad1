"""The console: lines of text, and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from agents.loggers.base import Logger, Start


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


class Console(Logger):
    """A progress bar over the updates: the loss, updates a second, and the time left."""

    def __init__(self, start: Start) -> None:
        self.path = start.folder
        total, form = start.settings["optim.updates"], {"dynamic_ncols": True, "smoothing": 0.1}
        self._bar = tqdm(total=total, initial=start.update, desc="train", unit="step", **form)

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Move the bar to `update`."""
        if "train/loss" in values:
            self._bar.set_postfix(loss=f"{values['train/loss']:.4f}", refresh=False)
            self._bar.update(update - self._bar.n)

    def close(self, *, failed: bool = False) -> None:
        """Leave the bar as it is."""
        self._bar.close()
