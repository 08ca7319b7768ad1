"""The folder of a run: created, found, locked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import Config, saved
from envs import files
from envs.errors import UserError
from envs.files import file_name

RESULTS = "results.json"
LOCK = ".lock"


def finished(folder: Path) -> bool:
    """Whether the run in `folder` is finished, its results (which may be empty) included."""
    return (folder / RESULTS).is_file()


def make_folder(config: Config) -> Path:
    """Create the run's folder: a fresh one by default, the given one if it is empty."""
    if config.run_dir is not None:
        folder = config.run_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{folder} runs into a file: choose another --run-dir") from None
        # A run that was killed before its first file was written leaves these.
        if {path.name for path in folder.iterdir()} - {LOCK, f".writing-{saved.FILE}"}:
            raise UserError(
                f"{folder} is not empty: choose another --run-dir, remove it, or resume the run in "
                f"it with --resume {folder}"
            )
        return folder
    base = Path("runs") / file_name(config.env) / f"{config.model.backbone}-seed{config.seed}"
    for attempt in range(1, 10_000):
        folder = base if attempt == 1 else base.with_name(f"{base.name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{base} and 9998 more exist: name a --run-dir")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context: only this process writes into the run; UserError where another one does."""
    busy = f"{folder} is being trained by another process: wait for it, or stop it"
    with files.locked(folder / LOCK, busy=busy):
        yield
