"""How scripts end: a problem that the user can fix is one line on stderr, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence

from envs.errors import UserError, one_line


def run_script(main: Callable[[], None]) -> int:
    """Run `main`; return the exit code: 0, 2 (UserError), 1 (disk error), 130 (Ctrl-C).

    Parse the arguments in `main`: it may be `--help` whose reader has ended.
    """
    _open_closed_streams()
    try:
        try:
            main()
        finally:
            if not isinstance(sys.exception(), UserError):
                sys.stdout.flush()
    except UserError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        return 2
    except OSError as error:
        if _reader_has_ended(error):
            return 1
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(
            f"\nerror: {error.strerror}{where}; free some space or choose another folder\n"
        )
        return 1
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        sys.stderr.write(
            f"\nerror: {one_line(repr(error.object))} is not in the encoding of this locale; set "
            f"LC_ALL=C.UTF-8, or rename the file or the folder\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; nothing that was saved before is lost\n")
        return 130
    finally:
        _drop_what_cannot_be_written()
    return 0


def command(arguments: Sequence[str]) -> str:
    """Return arguments as the user's shell takes them."""
    join = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    return join(arguments)


def _open_closed_streams() -> None:
    """Let closed standard streams (`>&-`, pythonw.exe) lead to nowhere.

    Otherwise the next file that is opened would get the number of a closed one, and what libraries
    print would be written into it.
    """
    names = ("stdin", "stdout", "stderr")
    for number in range(len(names)):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            os.dup2(handle, number)  # for other processes, too
            if handle != number:
                os.close(handle)
    for name in names:
        if (stream := getattr(sys, name)) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")  # the locale may not have a character


def _reader_has_ended(error: OSError) -> bool:
    """Whether the reader of the output has ended, as `head` does; on Windows that is EINVAL."""
    windows = sys.platform == "win32" and error.errno == errno.EINVAL and not error.filename
    return isinstance(error, BrokenPipeError) or windows


def _drop_what_cannot_be_written() -> None:
    """Empty stdout where its reader has ended, which Python would report when it exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
