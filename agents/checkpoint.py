"""A checkpoint is a folder that acts alone: weights and normaliser, and `agent.json`.

Folders appear whole or not at all: written aside, synced, renamed. Loading runs none of their code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.decision import DecisionModel, Spaces
from configs import ModelConfig
from envs.errors import UserError

FORMAT = 1
FACTS = {"format", "model", "env_id", "data", "targets", "update", "window"}
"""What `agent.json` holds: the model's configuration, and all that evaluate.py needs to know."""
LATER_FACTS: dict[str, Any] = {"env_kwargs": {}, "obs_keys": [], "reference": None}
"""What checkpoints of old do not hold, and what it was for them."""


def save_checkpoint(folder: Path, model: DecisionModel, facts: dict[str, Any]) -> None:
    """Write `model` and `facts` (see FACTS) to `folder`, atomically.

    Raises UserError where the disk is full or not writable; an older checkpoint then stays.
    """
    agent = {"format": FORMAT, "model": dataclasses.asdict(model.config), **facts}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic_folder(folder) as aside:
        save_file(tensors, aside / "model.safetensors")
        (aside / "agent.json").write_text(json.dumps(agent, indent=2) + "\n")


def load_checkpoint(folder: Path) -> tuple[DecisionModel, dict[str, Any]]:
    """Return the model of `folder`, on the CPU and in eval mode, and the facts saved with it.

    Raises UserError where there is no checkpoint, or one that is damaged or newer than this code.
    """
    aside = _old(folder)
    if not folder.exists() and aside.exists():
        folder = aside  # killed in between the two renames of a save
    agent_file, weights_file = folder / "agent.json", folder / "model.safetensors"
    if not agent_file.is_file() or not weights_file.is_file():
        raise UserError(f"no checkpoint in {folder}: give the folder of a run that train.py made")
    try:
        facts = json.loads(agent_file.read_text())
        if not isinstance(facts, dict) or not facts.keys() >= FACTS:
            raise ValueError(f"agent.json lacks {', '.join(sorted(FACTS - set(facts)))}")
        if facts["format"] > FORMAT:
            raise UserError(
                f"{folder} was written by a newer minrnn (format {facts['format']}, this one reads "
                f"up to {FORMAT}): update minrnn"
            )
        facts = LATER_FACTS | facts
        config = ModelConfig(**facts.pop("model"))
        tensors = load_file(weights_file)
        stored: dict[str, Any] = {name: tensors[name].tolist() for name in Spaces._fields}
        spaces = Spaces(**stored)
        model = DecisionModel(config, spaces)
        model.load_state_dict(tensors)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the checkpoint in {folder} is damaged ({reason}): train again") from None
    return model.eval(), facts


class atomic_folder:
    """Context: a folder to write into, which replaces `target` when the block succeeds."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.aside = Path(tempfile.mkdtemp(dir=self.target.parent, prefix=".writing-"))
        except OSError as error:
            raise _cannot_write(self.target, error) from None
        return self.aside

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                for file in self.aside.iterdir():
                    file.chmod(0o644)  # safetensors makes them readable for their owner alone
                    _sync(file)
                _sync(self.aside)
                _replace(self.aside, self.target)
        except OSError as failure:
            error = failure
        finally:
            shutil.rmtree(self.aside, ignore_errors=True)
        # safetensors reports a full disk as its own error, with the cause in the text.
        if isinstance(error, OSError | SafetensorError):
            raise _cannot_write(self.target, error) from None


def _replace(new: Path, target: Path) -> None:
    # A folder cannot be renamed over a full one: step aside first, so that a kill in between leaves
    # the old one under a name that is easy to find, and never a mixture.
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    os.chmod(new, 0o755)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _old(target: Path) -> Path:
    return target.with_name(f".old-{target.name}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(target: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write {target}: {error}; nothing was left half-written; "
        "free some space or choose another folder"
    )


def write_json(path: Path, values: object) -> None:
    """Write `values` to `path` atomically, as indented JSON."""
    write_file(path, (json.dumps(values, indent=2) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; UserError where the disk is full or not writable."""
    aside = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        _sync(aside)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise _cannot_write(path, error) from None
