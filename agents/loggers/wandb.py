"""Weights & Biases, which WANDB_MODE, WANDB_PROJECT and its other variables configure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from agents.loggers.base import Logger, Start
from envs.errors import UserError
from envs.files import write_file

ID = "wandb-id.txt"  # holds the run's id at W&B, so that a resumed run stays the same one


class Wandb(Logger):
    """A run at W&B. A row of metrics is a step, by its number, so that none is sent twice."""

    def __init__(self, start: Start) -> None:
        self.path, file = start.folder, start.folder / ID
        if not file.is_file():
            write_file(file, os.urandom(8).hex().encode())
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "minrnn"),
                dir=start.folder,
                id=file.read_text(encoding="utf-8"),
                name=f"{start.folder.parent.name}/{start.folder.name}",
                config=dict(start.settings),
                resume="allow",
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            fix = "run `wandb login`, set WANDB_MODE=offline, or choose another --log"
            raise UserError(f"--log wandb: {str(error).rstrip('.')}; {fix}") from None
        self._run.define_metric("*", step_metric="update")
        # A logger that joins a run later than its beginning starts behind what is there.
        joins = self._run.step if start.update else 0
        self._rows = joins if start.position is None else start.position["rows"]

    def metrics(self, update: int, seconds: float, values: Mapping[str, float]) -> None:
        """Send a row."""
        self._send({"update": update, "seconds": seconds, **values})

    def figure(self, name: str, figure: Any) -> None:
        """Send the figure's PNG file."""
        self._send({name: wandb.Image(str(self.path / f"{name}.png"))})

    def scores(self, values: Mapping[str, float]) -> None:
        """Put the final scores into the run's summary."""
        self._run.summary.update(dict(values))

    def position(self) -> dict[str, int]:
        """Return the number of rows."""
        return {"rows": self._rows}

    def close(self, *, failed: bool = False) -> None:
        """Wait until all is sent, and mark the run as finished or failed."""
        self._run.finish(exit_code=int(failed))

    def _send(self, row: Mapping[str, Any]) -> None:
        if self._rows >= self._run.step:
            self._run.log(dict(row), step=self._rows, commit=True)
        self._rows += 1
