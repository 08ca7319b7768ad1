"""The log of a run: all of its loggers together."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.loggers.base import Logger, Start, find
from agents.loggers.console import Console
from agents.loggers.jsonl import Jsonl
from configs import Config, saved
from configs.schema import typed


class RunLog:
    """Context: the console, `metrics.jsonl`, and --log's loggers. No config: nothing is logged."""

    def __init__(
        self,
        folder: Path = Path(),
        config: Config | None = None,
        update: int = 0,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        # Including those of loggers that are not used now, but may be by a later resume.
        self._positions = dict(position or {"seconds": 0.0})
        self._started = time.perf_counter() - self._positions["seconds"]
        self._loggers: dict[str, Logger] = {}
        if config is None:
            return
        kinds, settings = find(config.log), saved.settings(config)
        try:
            for name, kind in {"jsonl": Jsonl, **kinds, "console": Console}.items():
                start = Start(folder, settings, update, self._positions.get(name))
                self._loggers[name] = kind(start)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        failure: OSError | None = None
        for logger in reversed(self._loggers.values()):
            try:
                with _naming(logger.path):
                    logger.close(failed=kind is not None)
            except OSError as one:
                failure = failure or one
        if failure and kind is None:  # otherwise the first error is the one to report
            raise failure

    def metrics(self, update: int, prefix: str, values: Mapping[str, float]) -> None:
        """Log `values` at `update` as `prefix/name`."""
        seconds = time.perf_counter() - self._started
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        self._each(lambda logger: logger.metrics(update, seconds, named))

    def figure(self, name: str, figure: Any) -> None:
        """Log a matplotlib figure."""
        self._each(lambda logger: logger.figure(name, figure))

    def scores(self, values: Mapping[str, float]) -> None:
        """Log the final scores, beside the hyper-parameters."""
        self._each(lambda logger: logger.scores(values))

    def position(self) -> dict[str, Any]:
        """Return the positions of all loggers, fit for JSON; what is before them is on the disk."""
        own = {name: at for name, at in self._each(lambda logger: logger.position()).items() if at}
        return {**self._positions, **own, "seconds": time.perf_counter() - self._started}

    def _each(self, call: Callable[[Logger], Any]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, logger in self._loggers.items():
            with _naming(logger.path):
                results[name] = call(logger)
        return results


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Context: an error of the disk names its file, which that of a write does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def check_position(position: Mapping[str, Any]) -> dict[str, Any]:
    """Return a position that was read from a file; KeyError or ValueError where it is not one."""
    checked = dict(position)
    if "metrics" in checked:  # as earlier versions of this code saved it
        checked["jsonl"] = {Jsonl.name: checked.pop("metrics")}
    lengths = dict.fromkeys({"jsonl", *checked} - {"seconds"}, dict[str, int])
    checked = typed(checked, {"seconds": float, **lengths}, "log")
    if min((length for name in lengths for length in checked[name].values()), default=0) < 0:
        raise ValueError("a length of the log is negative")
    return checked
