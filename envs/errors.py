"""The one exception that means: the user can mend this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 5000  # letters


class UserError(Exception):
    """A problem the user can mend. Its text is one line that names what is wrong and the fix.

    The scripts print that line and exit with code 2; anything else is a defect of ours and keeps
    its traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def one_line(text: str) -> str:
    r"""Return a text for people as one line of bounded length that a terminal only prints.

    Names and values from files are quoted in it, and a file may hold anything in their place.

    Example:
        >>> one_line("part a\nb is \x1b[2J")
        'part a b is \\x1b[2J'
    """
    if len(text) > _LONGEST:
        half = _LONGEST // 2 - 3  # the fix is at the end
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable()
        else " "
        if letter.isspace()
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """Context: Ctrl-C during an import stays what it is.

    Modules in C, and who imports them, make errors of their own of a KeyboardInterrupt.
    """
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
