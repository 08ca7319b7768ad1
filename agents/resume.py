"""The state of a training run: all that has to be kept so that going on is exact to the bit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.atomic import old_name
from agents.folders import STATE, Newer, load_folder, save_folder
from agents.tensorfile import Layout, layout
from agents.trainer import Trainer
from envs.errors import UserError

Facts = dict[str, Any]


def capture(trainer: Trainer) -> tuple[dict[str, Tensor], Facts]:
    """Return the tensors and facts that `restore` needs, after a check that they are finite."""
    trainer.check()
    tensors = {**_weights(trainer), **_moments(trainer), **_generators(trainer.device)}
    if trainer.losses:
        tensors["losses"] = torch.stack(trainer.losses)
        tensors["norms"] = torch.stack(trainer.norms)
    facts = {
        "update": trainer.update,
        "sampler": trainer.sampler.state_dict(),
        "seconds": time.perf_counter() - trainer.since if trainer.losses else 0.0,
    }
    return tensors, facts


def restore(trainer: Trainer, tensors: dict[str, Tensor], facts: Facts) -> None:
    """Bring a fresh trainer of the same run to where `capture` found it.

    On another kind of device the random numbers of dropout are others from here on. Facts that are
    none raise what `sound` catches.
    """
    update = int(facts["update"])
    if not 0 <= update <= trainer.config.updates:
        raise ValueError(f"update {update} of {trainer.config.updates}")
    with torch.no_grad():
        for name, own in _weights(trainer).items():
            own.copy_(tensors[name])
    for name, parameter in trainer.model.named_parameters():
        prefix = f"optimizer.{name}."
        kept = {key: value for key, value in tensors.items() if key.startswith(prefix)}
        if kept:  # a parameter that nothing depends on has none
            trainer.optimizer.state[parameter] = {
                key.removeprefix(prefix): value.to(trainer.device) for key, value in kept.items()
            }
    torch.set_rng_state(tensors["generator.cpu"])
    if trainer.device.type == "cuda" and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"], trainer.device)
    for name, own in (("losses", trainer.losses), ("norms", trainer.norms)):
        own[:] = tensors[name].to(trainer.device).unbind() if name in tensors else []
    trainer.update = update
    trainer.since = time.perf_counter() - float(facts["seconds"])
    trainer.sampler.load_state_dict(facts["sampler"])
    trainer.mark_checked()


def expected(trainer: Trainer) -> Callable[[Facts, Layout], Layout]:
    """Return the check of a state's header against the run: what `load_folder` takes."""
    weights = {name: value.to("meta") for name, value in _weights(trainer).items()}
    moments: dict[str, Tensor] = {}
    for name, parameter in trainer.model.named_parameters():
        moments[f"optimizer.{name}.step"] = torch.empty((), dtype=torch.float32, device="meta")
        for moment in ("exp_avg", "exp_avg_sq"):
            moments[f"optimizer.{name}.{moment}"] = parameter.detach().to("meta")
    cpu = torch.get_rng_state().to("meta")
    cuda = torch.empty(16, dtype=torch.uint8, device="meta")

    def wanted(facts: Facts, found: Layout) -> Layout:
        # As many as there were updates since the last line of the log.
        pending = torch.empty(found.get("losses", ((0,),))[0], device="meta")
        either = {**moments, "generator.cuda": cuda, "losses": pending, "norms": pending}
        there = {name: value for name, value in either.items() if name in found}
        return layout({**weights, "generator.cpu": cpu, **there})

    return wanted


class States:
    """The saved states of a run, `RUN/state/0000001000`, of which the last `keep` stay."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, name: str, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Write a state, then remove those that are older than the last; and any later ones.

        A later one was damaged, for otherwise it would have been gone on from.
        """
        save_folder(self.folder / name, tensors, facts, STATE)
        names = self._names()
        place = names.index(name) + 1
        for other in names[: max(0, place - self.keep)] + names[place:]:
            shutil.rmtree(self.folder / other, ignore_errors=True)
            shutil.rmtree(old_name(self.folder / other), ignore_errors=True)

    def newest(
        self, trainer: Trainer, tell: Callable[[str], object]
    ) -> tuple[dict[str, Tensor], Facts] | None:
        """Return the newest state that is sound; None where none was saved yet.

        Tells of those that are not. Raises UserError where none is, and where a newer version of
        this code wrote one.
        """
        names = self._names()
        for name in reversed(names):
            try:
                return load_folder(self.folder / name, STATE, expected(trainer))
            except Newer:
                raise
            except UserError as error:
                if name == names[0]:
                    raise
                tell(f"note   {error}; the one before it is gone on from")
        return None

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = {path.name.removeprefix(".old-") for path in self.folder.iterdir()}
        return sorted(name for name in names if name[:1].isdigit())


@contextmanager
def sound(folder: Path) -> Iterator[None]:
    """Context: facts of another shape than ours become a UserError."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the state in {folder} is damaged ({reason}): begin another run") from None


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    found = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    if trainer.average is not None:
        average = trainer.average.state_dict()
        found |= {f"average.{name}": value for name, value in average.items()}
    return found


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in trainer.model.named_parameters()
        for key, value in trainer.optimizer.state.get(parameter, {}).items()
    }


def _generators(device: torch.device) -> dict[str, Tensor]:
    found = {"generator.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["generator.cuda"] = torch.cuda.get_rng_state(device)
    return found
