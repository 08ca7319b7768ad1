"""The interface of a logger, and the registry that --log takes its names from."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envs.errors import UserError

LOGGERS = {"tensorboard": "TensorBoard", "csv": "Csv", "wandb": "Wandb"}
"""The class of each logger that --log names; it is in the module of that name in this folder."""


class Start(NamedTuple):
    """Where a logger starts: at the beginning of a run, or where a resumed one stood."""

    folder: Path
    """The run's folder."""
    settings: Mapping[str, Any]
    """The run's hyper-parameters, by name as in optim.lr."""
    update: int = 0
    position: Mapping[str, int] | None = None
    """What `Logger.position` returned at `update`: what was logged later is to be cut off, as it
    will be logged again. None: the logger was not there."""


class Logger:
    """The interface of a logger, whose constructor takes a Start. This class logs nothing."""

    path: Path
    """What errors of the disk are to name."""

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log `values` at `update`, `seconds` after the run began."""

    def figure(self, name: str, figure: Any) -> None:
        """Log a matplotlib figure, which is in the run's folder as a PNG file already."""

    def scores(self, values: Mapping[str, float]) -> None:
        """Log the final scores, beside the hyper-parameters."""

    def position(self) -> dict[str, int]:
        """Return the current position, as lengths of files; what is before it is on the disk."""
        return {}

    def close(self, *, failed: bool = False) -> None:
        """Finish writing. failed: the run ends early."""


def find(names: str) -> dict[str, Any]:
    """Return the classes of the loggers in --log. UserError where one cannot be used."""
    found: dict[str, Any] = {}
    for name in () if names == "none" else map(str.strip, names.split(",")):
        if name not in LOGGERS:
            raise UserError(f"--log {name}: choose from {', '.join(LOGGERS)}, or none")
        try:
            module = importlib.import_module(f"agents.loggers.{name}")
        except ModuleNotFoundError as error:
            raise UserError(f"--log {name} needs: pip install {error.name}") from None
        found[name] = getattr(module, LOGGERS[name])
    return found


def synced(paths: Iterable[Path]) -> dict[str, int]:
    """Sync files to the disk; return their lengths in bytes, by name."""
    lengths: dict[str, int] = {}
    for path in paths:
        with path.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
            lengths[path.name] = os.fstat(file.fileno()).st_size
    return lengths


def cut(path: Path, length: int) -> bool:
    """Cut a file to a length in bytes; return False where it is shorter."""
    size = path.stat().st_size if path.exists() else 0
    if size > length:
        os.truncate(path, length)
    return size >= length
