"""The state of a training run: all that is needed to resume it bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.storage.folder_formats import STATE
from agents.storage.tensor_folder import (
    CannotLoad,
    Layout,
    NewerVersion,
    layout,
    load_folder,
    refused,
    save_folder,
)
from agents.training.optimiser import state_layout
from agents.training.trainer import Trainer
from configs.schema import fits, typed
from envs.errors import UserError, one_line
from envs.files import OLD, old_name, remove_folder

Metadata = dict[str, Any]


class OtherData(UserError):
    """A sound state of a run on other data, which cannot be resumed on these."""


PENDING = "pending."
"""How the names of the tensors begin that hold metrics since the last line of the log."""


def capture(trainer: Trainer) -> tuple[dict[str, Tensor], Metadata]:
    """Return the tensors and metadata that `restore` needs, after a check that they are finite."""
    trainer.check()
    tensors = {**_weights(trainer), **_moments(trainer), **_generators(trainer.device)}
    for name, values in trainer.pending.items():
        tensors[f"pending.{name}"] = torch.stack(values)
    metadata = {
        "update": trainer.update,
        "sampler": trainer.sampler.state_dict(),
        "seconds": time.perf_counter() - trainer.since if trainer.pending else 0.0,
    }
    return tensors, metadata


def restore(trainer: Trainer, tensors: dict[str, Tensor], metadata: Metadata) -> None:
    """Restore a trainer to what `capture` returned; raises what `refused` catches if impossible."""
    update, seconds = metadata["update"], metadata["seconds"]
    if not fits(update, int) or not 0 <= update <= trainer.config.updates:
        raise ValueError(f"update {update!r:.50} of {trainer.config.updates}")
    if not fits(seconds, float) or seconds < 0:
        raise ValueError(f"{seconds!r:.50} seconds")
    trainer.sampler.load_state_dict(metadata["sampler"])
    if trainer.sampler.state_dict() != metadata["sampler"]:
        raise ValueError("an impossible sampler")
    with torch.no_grad():
        for name, own in _weights(trainer).items():
            own.copy_(tensors[name])
    trainer.optimizer.state.clear()
    for name, parameter in trainer.objective.named_parameters():
        prefix = f"optimizer.{name}."
        kept = {key: value for key, value in tensors.items() if key.startswith(prefix)}
        if kept:  # a parameter that nothing depends on has none
            trainer.optimizer.state[parameter] = {
                key.removeprefix(prefix): value.to(trainer.device) for key, value in kept.items()
            }
    torch.set_rng_state(tensors["generator.cpu"])
    if trainer.device.type == "cuda" and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"], trainer.device)
    trainer.pending.clear()
    for name, values in tensors.items():
        if name.startswith(PENDING):
            trainer.pending[name.removeprefix(PENDING)] = [*values.to(trainer.device).unbind()]
    trainer.update = update
    trainer.since = time.perf_counter() - seconds
    trainer.mark_checked()


def expected(trainer: Trainer) -> Callable[[Metadata, Layout], Layout]:
    """Return the function that gives `load_folder` the layout of the run's states."""
    weights = {name: value.to("meta") for name, value in _weights(trainer).items()}
    moments: dict[str, Tensor] = {}
    for name, parameter in trainer.objective.named_parameters():
        for moment, value in state_layout(trainer.optimizer, parameter).items():
            moments[f"optimizer.{name}.{moment}"] = value
    cpu = torch.get_rng_state().to("meta")
    cuda = torch.empty(16, dtype=torch.uint8, device="meta")

    def wanted(metadata: Metadata, found: Layout) -> Layout:
        # As many as there were updates since the last line of the log.
        pending = {
            name: torch.empty(found[name][0][:1], device="meta")
            for name in found
            if name.startswith(PENDING)
        }
        either = {**moments, "generator.cuda": cuda, **pending}
        there = {name: value for name, value in either.items() if name in found}
        return layout({**weights, "generator.cpu": cpu, **there})

    return wanted


RUN: dict[str, Any] = {
    "update": int,
    "evaluated": int,
    "best_update": int,
    "best_score": float | None,
    "data": {"episodes": int, "steps": int, "sha256": str},
    "machine": {"torch": str, "device": str, "threads": int, "ranks": int},
}
"""What a state holds beside the rest of its trainer's metadata and the position of the log."""


def check_run(metadata: dict[str, Any]) -> None:
    """Raise ValueError or KeyError where what a run saved is missing or impossible."""
    found = {name: metadata[name] for name in RUN}
    if found["best_score"] == -math.inf:  # too many episodes failed in the best evaluation so far
        found["best_score"] = 0.0
    found = typed(found, RUN, STATE.metadata)
    if not 0 <= found["best_update"] <= found["evaluated"] <= found["update"]:
        raise ValueError("impossible updates of the evaluations")
    if (found["best_score"] is None) != (found["best_update"] == 0):
        raise ValueError("best_score and best_update do not go together")


class States:
    """The saved states of a run, `RUN/state/0000001000`: those of the last `keep` updates."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, name: str, tensors: dict[str, Tensor], metadata: Metadata) -> None:
        """Write a state, then remove those older than the last `keep` updates, and any later ones.

        A state is named after its update, with or without a suffix (-evaluated); of several states
        of one update the last stays. A later one was damaged: the run was not resumed from it.
        """
        save_folder(self.folder / name, tensors, metadata, STATE)
        names = self._names()
        last = {other.split("-")[0]: other for other in names if other <= name}
        kept = [*last.values()][-self.keep :]
        for other in names:
            if other not in kept:
                # The old copy beside it first: left alone, it would be taken for the state.
                remove_folder(old_name(self.folder / other))
                remove_folder(self.folder / other)

    def restore(
        self,
        trainer: Trainer,
        tell: Callable[[str], object],
        check: Callable[[Metadata], object] = lambda metadata: None,
    ) -> Metadata | None:
        """Restore a trainer from the newest sound state; return its metadata, None without states.

        `check` raises where the run's own metadata is impossible. `tell` gets a line about each
        damaged state. Raises UserError where all are damaged, where `check` raises OtherData, and
        where a newer version of this code wrote a state.
        """
        names = self._names()
        for name in reversed(names):
            try:
                tensors, metadata = load_folder(self.folder / name, STATE, expected(trainer))
                with refused(self.folder / name, STATE):
                    check(metadata)
                    restore(trainer, tensors, metadata)
                return metadata
            except (NewerVersion, OtherData):
                raise
            except CannotLoad as error:
                if name == names[0]:
                    raise
                tell(f"note   {one_line(error.what)}; resuming from the one before it")
        return None

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = {path.name.removeprefix(OLD) for path in self.folder.iterdir()}
        return sorted(name for name in names if name[:1].isdigit())


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    # Of a tensor that several modules share, one name is kept.
    items = trainer.objective.state_dict().items()
    found = dict({(t.data_ptr() or n, t.shape, t.stride()): (n, t) for n, t in items}.values())
    if trainer.average is not None:
        average = trainer.average.state_dict()
        found |= {f"average.{name}": value for name, value in average.items()}
    return found


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in trainer.objective.named_parameters()
        for key, value in trainer.optimizer.state.get(parameter, {}).items()
    }


def _generators(device: torch.device) -> dict[str, Tensor]:
    found = {"generator.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["generator.cuda"] = torch.cuda.get_rng_state(device)
    return found
