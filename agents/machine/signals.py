"""SIGTERM and Ctrl-C: a run that is asked to stop saves its state first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGBREAK", None)]))
"""SIGBREAK is Windows', where nobody sends SIGTERM: Ctrl-Break, or the terminal is closed."""


class Stopped(BaseException):
    """The run was asked to stop, and has saved its state. No `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # a shell's exit code for that signal: 143 or 130


class Stop:
    """Context: signals are only noted, and `check` raises Stopped.

    A second Ctrl-C, at least a second later, is a KeyboardInterrupt at once. Outside the main
    thread signals cannot be handled, and nothing is noted.
    """

    _SAME = 1.0  # seconds; a shell and its command (timeout, torchrun) may both pass a signal on

    def __init__(self) -> None:
        self._number, self._since, self._at_once = 0, 0.0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(self._number)

    def check(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self._number:
            raise Stopped(self._number)

    def now(self) -> NoReturn:
        """Raise Stopped, for the signal to this process or, if there was none, to another rank."""
        raise Stopped(self._number or signal.SIGTERM)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Context for work that can be repeated from the saved state: a signal ends it at once."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._number:
            if number == signal.SIGINT and now - self._since > self._SAME:
                raise KeyboardInterrupt
            return
        self._number, self._since = number, now
        if self._at_once:
            raise Stopped(number)
