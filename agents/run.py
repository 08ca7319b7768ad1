"""A run's folder: made or found, locked; what is saved in it, and when."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import configs
from agents import resume, runs
from agents.checkpoint import save_checkpoint, write_json
from agents.runlog import RunLog, checked, say
from agents.stop import Stop, Stopped
from agents.trainer import Diverged, Trainer
from configs import Config
from envs.errors import UserError
from envs.fingerprint import fingerprint
from envs.trajectories import Trajectories

RESULTS = "results.json"
LOCK = ".lock"


class Run:
    """Context: a run in its folder, at its beginning or where it was left.

    Signals that ask it to stop are noted while it lasts; see agents.stop.
    """

    log: RunLog

    def __init__(
        self, config: Config, data: Trajectories, trainer: Trainer, facts: dict[str, Any]
    ) -> None:
        """`facts` are those of its checkpoints (see agents.facts)."""
        self.config, self.data, self.trainer, self.facts = config, data, trainer, facts
        self.best_score: float | None = None
        self.best_update = 0
        self.evaluated = 0
        """The last update whose evaluation is behind."""
        self.stop = Stop()
        self._saved = (-1, -1)
        self._saved_at = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> Run:
        """Make or find the folder, lock it, and bring the trainer to where it was left."""
        self.folder = self.config.resume or make_folder(self.config)
        self.config = dataclasses.replace(self.config, run_dir=self.folder)
        self._states = resume.States(self.folder / "state", self.config.checkpoint.keep)
        self._data = fingerprint(self.data)
        with ExitStack() as entered:
            entered.enter_context(locked(self.folder))
            position = None
            if self.config.resume:
                _clear(self.folder)
                position = self._restore()
            else:
                write_json(self.folder / configs.saved.FILE, configs.to_dict(self.config))
            returns = {"name": self.data.name, "returns": self.data.returns.tolist()}
            write_json(self.folder / runs.DATA_FILE, returns)
            total = self.config.optim.updates
            self.log = RunLog(self.folder, total, self.trainer.update, position)
            entered.enter_context(self.log)
            entered.enter_context(self._explained())
            entered.enter_context(self.stop)
            self._open = entered.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool:
        return bool(self._open.__exit__(*exception))

    def save(self, name: str) -> None:
        """Write a checkpoint that acts, `last` or `best`."""
        facts = {**self.facts, "update": self.trainer.update}
        save_checkpoint(self.folder / name, self.trainer.acting_model, facts)

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
        tensors, training = resume.capture(self.trainer)
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
        self._saved, self._saved_at = now, time.monotonic()

    def stop_if_asked(self) -> None:
        """Save the state and raise Stopped, where a signal asked for it."""
        if self.stop.asked:
            self.save_state()
            self.stop.check()

    def _restore(self) -> dict[str, Any] | None:
        """Bring the trainer to the newest state; return where the log stood then."""
        found = self._states.newest(self.trainer, say)
        if found is None:
            return None
        tensors, facts = found
        with resume.sound(self._states.folder):
            if facts["data"] != self._data:
                was, now = facts["data"], self._data
                raise UserError(
                    f"{self.data.name} is not the data that {self.folder} was begun with ("
                    f"{was['episodes']} episodes, {was['steps']} steps, {was['sha256'][:12]}; now "
                    f"{now['episodes']}, {now['steps']}, {now['sha256'][:12]}): bring it back, or "
                    "begin another run"
                )
            resume.restore(self.trainer, tensors, facts)
            self.evaluated = int(facts["evaluated"])
            self.best_score, self.best_update = facts["best_score"], int(facts["best_update"])
            for name, now in machine(self.trainer).items():
                if facts["machine"][name] != now:
                    was = facts["machine"][name]
                    say(f"note   {name} was {was}, is {now}: rounding may differ from here on")
            self._saved = self.trainer.update, self.evaluated
            return checked(facts["log"])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Context: what ends the run early is told with what is left, and how to go on."""
        try:
            yield
        except Stopped as stopped:
            say(f"\nstopped at update {self._saved[0]}; to go on:")
            say(f"python train.py --resume {self.folder}")
            raise SystemExit(stopped.code) from None
        except Diverged as error:
            last = "nothing was saved before it"
            if (self.folder / "last").is_dir():
                last = f"{self.folder / 'last'} is the last checkpoint before it"
            raise UserError(f"{error}; {last}") from None


def finished(folder: Path) -> bool:
    """Whether the run in `folder` has come to its end, the report included."""
    return (folder / RESULTS).is_file()


def machine(trainer: Trainer) -> dict[str, Any]:
    """Return what changes rounding, and with it the last bits of the weights."""
    return {
        "torch": torch.__version__,
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
    }


def make_folder(config: Config) -> Path:
    """Create the run's folder: a fresh one by default, the given one if it is empty."""
    if config.run_dir is not None:
        folder = config.run_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{folder} runs into a file: choose another --run-dir") from None
        # Killed before its first file was written, a run leaves these.
        if {path.name for path in folder.iterdir()} - {LOCK, f".writing-{configs.saved.FILE}"}:
            raise UserError(
                f"{folder} is not empty: choose another --run-dir, remove it, or go on with it by "
                f"--resume {folder}"
            )
        return folder
    name = config.env.replace(",", "+").strip("/.").replace("/", "-")[-100:]
    base = Path("runs") / name / f"{config.model.backbone}-seed{config.seed}"
    for attempt in range(1, 10_000):
        folder = base if attempt == 1 else base.with_name(f"{base.name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{base} and 9998 more exist: name a --run-dir")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context: no other process writes into the run; UserError where one does."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is being trained by another process: wait for it, or stop it"
        ) from None
    except NotImplementedError:  # some network drives have no locks
        pass
    try:
        yield
    finally:
        lock.release()


def _clear(folder: Path) -> None:
    """Remove what a kill in the middle of a save left."""
    for path in (*folder.glob(".writing-*"), *(folder / "state").glob(".writing-*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
