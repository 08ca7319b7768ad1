"""How a run ends before its end: with what is left, and with the command that goes on."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agents.machine.signals import Stopped
from configs import Config, saved
from envs.errors import UserError
from envs.files import CannotWrite

if TYPE_CHECKING:
    from agents.runs.run import Run

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def command(folder: Path, config: Config) -> str:
    """Return the command that goes on with the run in `folder` as `config` has it.

    By as many ranks as there are, and with the options in which this process differs from what
    the run was begun with: threads and devices are some, and change rounding.
    """
    try:
        options = saved.other_flags(config, saved.read(folder))
    except ValueError:  # damaged since
        options = []
    return f"{_launcher()} train.py {shlex.join(['--resume', str(folder), *options])}"


def _launcher() -> str:
    """Return what has started this process, and others beside it."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if ranks == 1 and not restarts:
        return "python"
    flags = f"--nproc-per-node {local}" + (f" --max-restarts {restarts}" if restarts else "")
    if nodes := ranks // local - 1:
        # Where they meet is not known here.
        flags = f"--nnodes {nodes + 1} --rdzv-backend c10d --rdzv-endpoint HOST:PORT {flags}"
    return f"torchrun {flags}"


@contextmanager
def interrupted(folder: Path | None, config: Config) -> Iterator[None]:
    """Context: Ctrl-C with nothing new to save exits with 130 and the command that goes on.

    None, and a folder without a run in it, leave it to the script.
    """
    try:
        yield
    except KeyboardInterrupt:
        if folder is None or not (folder / saved.FILE).is_file():
            raise
        if os.environ.get("RANK", "0") == "0":
            sys.stdout.flush()
            sys.stderr.write(
                f"\ninterrupted: what was saved before stays; to go on:\n"
                f"{command(folder, config)}\n"
            )
        raise SystemExit(130) from None


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """Context: what ends a run early is told with what is left, and how to go on."""
    # Not above: `interrupted` is to be there while torch is imported, which takes a while.
    from agents.loggers.runlog import say
    from agents.training.trainer import Diverged

    try:
        with interrupted(run.folder, run.config):
            yield
    except Stopped as stopped:
        say(f"\nstopped at update {run.saved_update}; to go on:")
        say(command(run.folder, run.config))
        raise SystemExit(stopped.code) from None
    except Diverged as error:
        last = "nothing was saved before it"
        if (run.folder / "last").is_dir():
            last = f"{run.folder / 'last'} is the last checkpoint before it"
        raise UserError(f"{error}; {last}") from None
    except (CannotWrite, OSError) as error:
        begun = (run.folder / saved.FILE).is_file()
        if not begun or (isinstance(error, OSError) and error.errno not in _DISK):
            raise
        if isinstance(error, OSError):
            where = Path(error.filename or run.folder)
            error = CannotWrite(where, error.strerror or error)
        raise UserError(
            f"{error.what}; free some space, then go on by: {command(run.folder, run.config)}"
        ) from None
