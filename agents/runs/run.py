"""A training run: what it saves, when, and how it is resumed."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import torch

import configs
from agents.evaluation import checkpoints
from agents.loggers.console import say
from agents.loggers.run_log import RunLog, check_position
from agents.machine.signals import Stop
from agents.model.decision import DecisionModel
from agents.runs.early_end import report_early_end
from agents.runs.folder import locked, make_folder
from agents.storage import best, training_state
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.training.trainer import Trainer
from configs import Config
from envs.data.fingerprint import fingerprint
from envs.data.trajectories import Trajectories
from envs.errors import UserError, one_line
from envs.files import recover, write_json


class Run:
    """Context: a run in its folder, started or resumed. Signals that ask it to stop are noted.

    Ranks other than the first train and evaluate the same, but write, log and print nothing.
    """

    def __init__(
        self, config: Config, data: Trajectories, trainer: Trainer, metadata: dict[str, Any]
    ) -> None:
        """`metadata` is that of its checkpoints (see agents.storage.metadata)."""
        self.config, self.data, self.trainer, self.metadata = config, data, trainer, metadata
        self.best_score: float | None = None
        self.best_update = 0
        self.evaluated = 0  # the last update whose evaluation is done
        self.log, self.stop = RunLog(), Stop()
        self.ranks = trainer.ranks
        self._saved = (-1, -1)
        self._saved_at = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> Run:
        """Create or find the folder, lock it, and restore the trainer where it is resumed."""
        config, self._data = self.config, fingerprint(self.data)
        with ExitStack() as entered:
            if self.ranks.writer:
                self.folder = config.resume or make_folder(config)
            else:  # rank 0 will name it
                self.folder = config.resume or config.run_dir or Path(os.devnull)
                nowhere = entered.enter_context(open(os.devnull, "w", encoding="utf-8"))
                entered.enter_context(redirect_stdout(nowhere))
            self.config = dataclasses.replace(config, run_dir=self.folder)
            entered.enter_context(report_early_end(self))
            if self.ranks.writer:
                entered.enter_context(locked(self.folder))
                position = self._start()
                self.log = RunLog(self.folder, self.config, self.trainer.update, position)
            entered.enter_context(self.log)
            self.synchronise()
            entered.enter_context(self.stop)
            self._open = entered.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool:
        return bool(self._open.__exit__(*exception))

    def _start(self) -> dict[str, Any] | None:
        """Prepare the folder, or restore the trainer from it; return the position of the log."""
        self._states = training_state.States(self.folder / "state", self.config.checkpoint.keep)
        position = None
        if self.config.resume:
            recover(self.folder)
            recover(self._states.folder)
            position = self._restore()
        else:
            write_json(self.folder / configs.saved.FILE, configs.to_dict(self.config))
        returns = {"name": self.data.name, "returns": self.data.returns.tolist()}
        write_json(self.folder / checkpoints.DATA_FILE, returns)
        return position

    def synchronise(self) -> None:
        """Let all ranks start where rank 0 is; UserError where their settings or data differ."""
        if self.ranks.size == 1:
            return
        self.ranks.stop = self.stop
        settings = {**configs.saved.settings(self.config), "data": self._data}
        for rank, other in enumerate(self.ranks.gather(settings)):
            if names := [name for name in settings if settings[name] != other.get(name)]:
                raise UserError(
                    f"ranks {self.ranks.rank} and {rank} differ in {', '.join(names)}: start all "
                    "with the same command and the same data"
                )
        tensors, training = training_state.capture(self.trainer) if self.ranks.writer else ({}, {})
        own = self.evaluated, self.best_score, self.best_update
        tensors, state = self.ranks.send(tensors, (training, own, str(self.folder)))
        if not self.ranks.writer:
            training_state.restore(self.trainer, tensors, state[0])
            self.evaluated, self.best_score, self.best_update = state[1]
            self.folder = Path(state[2])
            self.config = dataclasses.replace(self.config, run_dir=self.folder)

    def best(self) -> DecisionModel:
        """Return the model of the best checkpoint, on all ranks."""
        if self.ranks.writer:
            model, _ = load_checkpoint(self.folder / best.BEST)
        else:
            model = copy.deepcopy(self.trainer.acting_model)
        tensors, _ = self.ranks.send(model.state_dict(), None)
        model.load_state_dict(tensors)
        return model

    @property
    def saved_update(self) -> int:
        """The update of the newest saved state."""
        return self._saved[0]

    def save(self, name: str = "last") -> None:
        """Write a checkpoint to act with."""
        if self.ranks.writer:
            metadata = {**self.metadata, "update": self.trainer.update}
            save_checkpoint(self.folder / name, self.trainer.acting_model, metadata)

    def offer(self, score: float) -> None:
        """Make these weights the best checkpoint with the next saved state, if `score` is."""
        # Of equal scores the later one: returns of 0 and 1 tie early, in so few episodes.
        if self.best_score is None or score >= self.best_score:
            self.best_score, self.best_update = score, self.trainer.update
            self.save(best.NEXT)

    def state_due(self) -> bool:
        """Whether to save the state now, by the number of updates or by the clock."""
        if not self.ranks.writer:
            return False
        every, seconds = self.config.checkpoint.every, self.config.checkpoint.seconds
        if every and self.trainer.update % every == 0:
            return True
        return bool(seconds) and time.monotonic() - self._saved_at >= seconds

    def save_state(self) -> None:
        """Save all that a resumed run needs, unless it is saved already."""
        now = self.trainer.update, self.evaluated
        if now == self._saved or not self.ranks.writer:
            return
        tensors, training = training_state.capture(self.trainer)
        state = {
            **training,
            "evaluated": self.evaluated,
            "best_score": self.best_score,
            "best_update": self.best_update,
            "log": self.log.position(),
            "data": self._data,
            "machine": machine(self.trainer),
        }
        # The states before and after an evaluation are of one update.
        name = f"{now[0]:010d}" + ("-evaluated" if now[0] == now[1] else "")
        self._states.save(name, tensors, state)
        best.settle(self.folder, self.best_update)
        self._saved, self._saved_at = now, time.monotonic()

    def stop_if_asked(self) -> None:
        """Save the state and raise Stopped, where a signal asked to stop."""
        ranks = self.ranks
        if ranks.stopping(self.trainer.update) if ranks.size > 1 else self.stop.asked:
            self.save_state()
            self.stop.now()

    def _restore(self) -> dict[str, Any] | None:
        """Restore the trainer from the newest state; return the position of the log."""
        state = self._states.restore(self.trainer, say, self._check)
        if state is None:
            if (self.folder / "last").exists():
                raise UserError(
                    f"{self.folder} has no saved state: an older minrnn wrote none, or it was "
                    "removed; start another run"
                )
            say("note   no state was saved yet: the run starts from its beginning")
            return None
        self.evaluated = state["evaluated"]
        self.best_score, self.best_update = state["best_score"], state["best_update"]
        best.settle(self.folder, self.best_update)
        if self.best_update and (reason := best.lost(self.folder, self.best_update)):
            say(f"note   the best checkpoint is lost; the next ones replace it ({reason})")
            self.best_score, self.best_update = None, 0
        for name, now in machine(self.trainer).items():
            if state["machine"][name] != now:
                was = one_line(str(state["machine"][name]))
                other = "rounding may differ from here on"
                if name in ("device", "ranks") and self.config.model.dropout:
                    other += ", and dropout draws other random numbers"
                say(f"note   {name} was {was}, is {now}: {other}")
        self._saved = self.trainer.update, self.evaluated
        return check_position(state["log"])

    def _check(self, state: dict[str, Any]) -> None:
        check_position(state["log"])
        training_state.check_run(state)
        if state["data"] != self._data:
            was, now = state["data"], self._data
            raise training_state.OtherData(
                f"{self.data.name} is not the data that {self.folder} was started with ("
                f"{was['episodes']} episodes, {was['steps']} steps, {was['sha256'][:12]}; now "
                f"{now['episodes']}, {now['steps']}, {now['sha256'][:12]}): bring it back, or "
                "start another run"
            )


def machine(trainer: Trainer) -> dict[str, Any]:
    """Return what changes rounding, and so the last bits of the weights."""
    return {
        "torch": torch.__version__,
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "ranks": trainer.ranks.size,
    }
