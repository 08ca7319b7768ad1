"""The folder of a run: made, found, locked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import Config, saved
from envs import files
from envs.errors import UserError

RESULTS = "results.json"
LOCK = ".lock"


def finished(folder: Path) -> bool:
    """Whether the run in `folder` has come to its end, its report (which may be empty) included."""
    return (folder / RESULTS).is_file()


def plain(name: str) -> str:
    """Return the name of a data set, or of a mixture of them, as that of one folder."""
    return name.replace(",", "+").strip("/.").replace("/", "-")[-100:]


def make_folder(config: Config) -> Path:
    """Create the run's folder: a fresh one by default, the given one if it is empty."""
    if config.run_dir is not None:
        folder = config.run_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{folder} runs into a file: choose another --run-dir") from None
        # Killed before its first file was written, a run leaves these.
        if {path.name for path in folder.iterdir()} - {LOCK, f".writing-{saved.FILE}"}:
            raise UserError(
                f"{folder} is not empty: choose another --run-dir, remove it, or go on with it by "
                f"--resume {folder}"
            )
        return folder
    base = Path("runs") / plain(config.env) / f"{config.model.backbone}-seed{config.seed}"
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
    """Context: no other process writes into the run; UserError where one does."""
    busy = f"{folder} is being trained by another process: wait for it, or stop it"
    with files.locked(folder / LOCK, busy=busy):
        yield
