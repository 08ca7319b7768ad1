"""A run in its folder: what is saved, and when; and how it is gone on with."""

from __future__ import annotations

import copy
import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import configs
from agents.evaluation import checkpoints
from agents.loggers.runlog import RunLog, checked, say
from agents.machine.signals import Stop
from agents.model.decision import DecisionModel
from agents.runs.ending import explained
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
    """Context: a run in its folder, at its beginning or where it was left.

    Signals that ask it to stop are noted while it lasts; see agents.machine.signals.
    """

    log: RunLog

    def __init__(
        self, config: Config, data: Trajectories, trainer: Trainer, facts: dict[str, Any]
    ) -> None:
        """`facts` are those of its checkpoints (see agents.storage.metadata)."""
        self.config, self.data, self.trainer, self.facts = config, data, trainer, facts
        self.best_score: float | None = None
        self.best_update = 0
        self.evaluated = 0
        """The last update whose evaluation is behind."""
        self.stop = Stop()
        self.ranks = trainer.ranks
        self._saved = (-1, -1)
        self._saved_at = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> Run:
        """Make or find the folder, lock it, and bring the trainer to where it was left."""
        self.folder = self.config.resume or make_folder(self.config)
        self.config = dataclasses.replace(self.config, run_dir=self.folder)
        self._states = training_state.States(self.folder / "state", self.config.checkpoint.keep)
        self._data = fingerprint(self.data)
        with ExitStack() as entered:
            entered.enter_context(explained(self))
            entered.enter_context(locked(self.folder))
            position = None
            if self.config.resume:
                recover(self.folder)
                recover(self._states.folder)
                position = self._restore()
            else:
                write_json(self.folder / configs.saved.FILE, configs.to_dict(self.config))
            returns = {"name": self.data.name, "returns": self.data.returns.tolist()}
            write_json(self.folder / checkpoints.DATA_FILE, returns)
            total = self.config.optim.updates
            self.log = RunLog(self.folder, total, self.trainer.update, position)
            entered.enter_context(self.log)
            self.meet()
            entered.enter_context(self.stop)
            self._open = entered.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool:
        return bool(self._open.__exit__(*exception))

    def meet(self) -> None:
        """Let all ranks begin where rank 0 is; UserError where they were given other input."""
        if self.ranks.size == 1:
            return
        self.ranks.stop = self.stop
        settings = {**configs.saved.settings(self.config), "data": self._data}
        for rank, other in enumerate(self.ranks.gather(settings)):
            if names := [name for name in settings if settings[name] != other.get(name)]:
                raise UserError(
                    f"ranks {self.ranks.rank} and {rank} differ in {', '.join(names)}: start all "
                    "by the same command, with the same data"
                )
        tensors, training = training_state.capture(self.trainer) if self.ranks.writer else ({}, {})
        own = self.evaluated, self.best_score, self.best_update
        tensors, facts = self.ranks.send(tensors, (training, own, str(self.config.run_dir)))
        if not self.ranks.writer:
            training_state.restore(self.trainer, tensors, facts[0])
            self.evaluated, self.best_score, self.best_update = facts[1]
            self.folder = Path(facts[2])
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
        """The update of the newest state."""
        return self._saved[0]

    def save(self, name: str = "last") -> None:
        """Write a checkpoint that acts."""
        facts = {**self.facts, "update": self.trainer.update}
        save_checkpoint(self.folder / name, self.trainer.acting_model, facts)

    def offer(self, score: float) -> None:
        """Let the weights of now be the best, from the next save of the state on, if they are."""
        # Of equals the later: returns of 0 and 1 tie early, in so few episodes.
        if self.best_score is None or score >= self.best_score:
            self.best_score, self.best_update = score, self.trainer.update
            self.save(best.NEXT)

    def state_due(self) -> bool:
        """Whether the state is to be saved now, by the count of updates or by the clock."""
        every, seconds = self.config.checkpoint.every, self.config.checkpoint.seconds
        if every and self.trainer.update % every == 0:
            return True
        return bool(seconds) and time.monotonic() - self._saved_at >= seconds

    def save_state(self) -> None:
        """Save what going on from here needs, unless that is saved."""
        now = self.trainer.update, self.evaluated
        if now == self._saved:
            return
        tensors, training = training_state.capture(self.trainer)
        facts = {
            **training,
            "evaluated": self.evaluated,
            "best_score": self.best_score,
            "best_update": self.best_update,
            "log": self.log.position(),
            "data": self._data,
            "machine": machine(self.trainer),
        }
        # Before an evaluation and after it are two states of one update.
        name = f"{now[0]:010d}" + ("-evaluated" if now[0] == now[1] else "")
        self._states.save(name, tensors, facts)
        best.settle(self.folder, self.best_update)
        self._saved, self._saved_at = now, time.monotonic()

    def stop_if_asked(self) -> None:
        """Save the state and raise Stopped, where a signal asked for it."""
        ranks = self.ranks
        if ranks.stopping(self.trainer.update) if ranks.size > 1 else self.stop.asked:
            self.save_state()
            self.stop.now()

    def _restore(self) -> dict[str, Any] | None:
        """Bring the trainer to the newest state; return where the log stood then."""
        facts = self._states.restore(self.trainer, say, self._check)
        if facts is None:
            if (self.folder / "last").exists():
                raise UserError(
                    f"{self.folder} has no saved state: an older minrnn wrote none, or it was "
                    "removed; begin another run"
                )
            say("note   nothing was saved yet: it begins again")
            return None
        self.evaluated = facts["evaluated"]
        self.best_score, self.best_update = facts["best_score"], facts["best_update"]
        best.settle(self.folder, self.best_update)
        if self.best_update and (reason := best.lost(self.folder, self.best_update)):
            say(f"note   the best checkpoint is lost, and chosen from the next ones ({reason})")
            self.best_score, self.best_update = None, 0
        for name, now in machine(self.trainer).items():
            if facts["machine"][name] != now:
                was = one_line(str(facts["machine"][name]))
                other = "rounding may differ from here on"
                if name in ("device", "ranks") and self.config.model.dropout:
                    other += ", and dropout draws other random numbers"
                say(f"note   {name} was {was}, is {now}: {other}")
        self._saved = self.trainer.update, self.evaluated
        return checked(facts["log"])

    def _check(self, facts: dict[str, Any]) -> None:
        training_state.check_run(facts)
        checked(facts["log"])
        if facts["data"] != self._data:
            was, now = facts["data"], self._data
            raise training_state.OtherData(
                f"{self.data.name} is not the data that {self.folder} was begun with ("
                f"{was['episodes']} episodes, {was['steps']} steps, {was['sha256'][:12]}; now "
                f"{now['episodes']}, {now['steps']}, {now['sha256'][:12]}): bring it back, or "
                "begin another run"
            )


def machine(trainer: Trainer) -> dict[str, Any]:
    """Return what changes rounding, and with it the last bits of the weights."""
    return {
        "torch": torch.__version__,
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "ranks": trainer.ranks.size,
    }
