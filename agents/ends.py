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

from agents.atomic import CannotWrite
from agents.stop import Stopped
from configs import saved
from envs.errors import UserError

if TYPE_CHECKING:
    from agents.run import Run

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def command(folder: Path) -> str:
    """Return the command that goes on with the run in `folder`, by as many ranks as there are."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    begin = "python" if ranks == "1" else f"torchrun --nproc-per-node {ranks}"
    return f"{begin} train.py --resume {shlex.quote(str(folder))}"


@contextmanager
def interrupted(folder: Path | None) -> Iterator[None]:
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
                f"\ninterrupted: what was saved before stays; to go on:\n{command(folder)}\n"
            )
        raise SystemExit(130) from None


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """Context: what ends a run early is told with what is left, and how to go on."""
    # Not above: `interrupted` is to be there while torch is imported, which takes a while.
    from agents.runlog import say
    from agents.trainer import Diverged

    try:
        with interrupted(run.folder):
            yield
    except Stopped as stopped:
        say(f"\nstopped at update {run.saved_update}; to go on:")
        say(command(run.folder))
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
            f"{error.what}; free some space, then go on by: {command(run.folder)}"
        ) from None
