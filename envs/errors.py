"""The exception for problems that the user can fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 5000  # characters


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
