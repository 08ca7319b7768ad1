"""A run as the ranks other than the first see it: they train and evaluate, and write nothing."""

from __future__ import annotations

from contextlib import ExitStack, redirect_stdout
from io import TextIOBase
from typing import Any

from agents.loggers.runlog import RunLog
from agents.runs.ending import explained
from agents.runs.run import Run
from envs.data.fingerprint import fingerprint


class Follower(Run):
    """Context: what Run is, its folder and its log left to rank 0; what is told goes nowhere."""

    def __enter__(self) -> Follower:
        """Take over where rank 0 is."""
        self._data = fingerprint(self.data)
        self.log = _NoLog()
        with ExitStack() as entered:
            entered.enter_context(redirect_stdout(_Nowhere()))
            self.meet()
            entered.enter_context(explained(self))
            entered.enter_context(self.stop)
            self._open = entered.pop_all()
        return self

    def save(self, name: str = "last") -> None:
        """Leave it to rank 0, whose weights are the same."""

    def state_due(self) -> bool:
        """Whether the state is to be saved: not by this rank."""
        return False

    def save_state(self) -> None:
        """Leave it to rank 0."""


class _NoLog(RunLog):
    def __init__(self) -> None:
        pass

    def metrics(self, update: int, prefix: str, values: dict[str, float]) -> None:
        pass

    def advance(self, update: int, loss: float) -> None:
        pass

    def figure(self, name: str, figure: Any) -> None:
        pass


class _Nowhere(TextIOBase):
    def write(self, text: str) -> int:
        return len(text)
