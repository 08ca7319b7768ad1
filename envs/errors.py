"""The exception for problems that the user can fix."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 5000  # characters
_OF_THE_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE),
    *(errno.ESTALE, errno.ETIMEDOUT),
)
"""Errors of reading that say nothing about the file."""


class UserError(Exception):
    """A problem that the user can fix. Its text is one line that names the problem and the fix.

    The scripts print it and exit with code 2; any other exception is a bug, with a traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def one_line(text: str) -> str:
    """Return a text as one line of bounded length, without a terminal's control characters.

    Messages quote names and values from files, which may hold anything.
    """
    if len(text) > _LONGEST:
        half = _LONGEST // 2 - 3  # the fix is at the end
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


def remedy(error: BaseException, damaged: str) -> str:
    """Return what to do about an error of reading a file.

    damaged: the advice where the file itself is damaged. It may say that the file is to be deleted,
    which is wrong for one that cannot be read at the moment or is in another encoding.
    """
    if isinstance(error, UnicodeError) or isinstance(error.__cause__, UnicodeError):
        return "save its text in UTF-8"
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return "make it readable, or try again when the disk is well"
    return damaged


@contextmanager
def interruptible() -> Iterator[None]:
    """Context: Ctrl-C during an import is a KeyboardInterrupt, which extension modules change."""
    try:
        yield
    except Exception as error:
        chain: list[BaseException | None] = [error]
        for link in chain:
            if isinstance(link, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            if link is not None:
                chain += [e for e in (link.__cause__, link.__context__) if e not in chain]
        raise
