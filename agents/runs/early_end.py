"""What a run that ends early reports: what was saved, and the command that resumes it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.machine.signals import Stopped
from configs import Config, saved
from envs.errors import UserError
from envs.files import CannotWrite
from envs.script import command

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def resume_command(folder: Path, config: Config) -> str:
    """Return the command that resumes a run, with the ranks and changed options of this process."""
    try:
        options = saved.other_flags(config, saved.read(folder))
    except ValueError:  # damaged in the meantime
        options = []
    return f"{_launcher()} train.py {command(['--resume', str(folder), *options])}"


def _launcher() -> str:
    """Return the program that started this process and its other ranks."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if ranks == 1 and not restarts:
        return "python"
    flags = f"--nproc-per-node {local}" + (f" --max-restarts {restarts}" if restarts else "")
    if nodes := ranks // local - 1:
        # The address where the nodes meet is not known here.
        flags = f"--nnodes {nodes + 1} --rdzv-backend c10d --rdzv-endpoint HOST:PORT {flags}"
    return f"torchrun {flags}"


@contextmanager
def report_interrupt(folder: Path | None, config: Config) -> Iterator[None]:
    """Context: Ctrl-C with nothing new to save exits with 130 and the command that resumes it."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is None or not (folder / saved.FILE).is_file():
            raise  # the script handles it
        if os.environ.get("RANK", "0") == "0":
            sys.stdout.flush()
            sys.stderr.write(
                f"\ninterrupted: what was saved before stays; to resume:\n"
                f"{resume_command(folder, config)}\n"
            )
        raise SystemExit(130) from None


@contextmanager
def report_early_end(run: Any) -> Iterator[None]:
    """Context: a `Run` that ends early reports what was saved, and how to resume it."""
    # Not above: `report_interrupt` must work while torch is imported, which takes a while.
    from agents.loggers.console import say
    from agents.training.trainer import Diverged

    try:
        with report_interrupt(run.folder, run.config):
            yield
    except Stopped as stopped:
        say(f"\nstopped at update {run.saved_update}; to resume:")
        say(resume_command(run.folder, run.config))
        raise SystemExit(stopped.code) from None
    except Diverged as error:
        last = "nothing was saved before it"
        if (run.folder / "last").is_dir():
            last = f"{run.folder / 'last'} is the last checkpoint before it"
        raise UserError(f"{error}; {last}") from None
    except (CannotWrite, OSError) as error:
        started = (run.folder / saved.FILE).is_file()
        if not started or (isinstance(error, OSError) and error.errno not in _DISK):
            raise
        if isinstance(error, OSError):
            where = Path(error.filename or run.folder)
            error = CannotWrite(where, error.strerror or error)
        raise UserError(
            f"{error.what}; free some space, then resume: {resume_command(run.folder, run.config)}"
        ) from None
