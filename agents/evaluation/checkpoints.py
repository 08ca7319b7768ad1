"""Runs on the disk: their checkpoints, their data's returns, and which are seeds of one setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.model.decision import DecisionModel
from agents.storage.checkpoint import load_checkpoint
from agents.storage.tensor_folder import AGENT, read_json
from configs import saved
from configs.schema import fits
from envs import sources
from envs.errors import UserError
from envs.files import old_name
from envs.sources.local import LOCAL_DATA
from envs.sources.minari import folder as minari_folder

DATA_FILE = "data.json"
"""Beside a run's config.json: the returns of all episodes that it was trained on."""
LARGEST = 64_000_000
"""Bytes of config.json and of data.json; a million returns take 20 MB."""
_NOT_A_SETTING = {
    *(
        "seed",
        "run_dir",
        "resume",
        "resume_if_there",
        "device",
        "threads",
        "deterministic",
        "preset",
    ),
    *("data.cache", "data.download", "optim.compile"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A trained agent and where it came from."""

    name: str
    """last, best, or the name of a checkpoint's own folder."""
    run: Path
    """The run's folder."""
    model: DecisionModel
    facts: dict[str, Any]
    """What was saved with it (see agents.storage.checkpoint)."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """The run's config.json; empty where there is none."""

    @property
    def seed(self) -> int | None:
        """The training seed, where it is known."""
        return self.config.get("seed")

    @property
    def backbone(self) -> str:
        """The name of the cell, or of the cells."""
        return self.model.config.backbone


def find(paths: Sequence[Path], which: str = "both") -> list[Checkpoint]:
    """Load the checkpoints (`last`, `best` or `both`) of runs; a path may be a checkpoint's itself.

    Raises UserError where there is none.
    """
    found: dict[Path, Checkpoint] = {}
    for path in (path.resolve() for path in paths):
        if (path / "agent.json").is_file():
            if which not in ("both", path.name) and path.name in ("last", "best"):
                raise UserError(f"{path} is no checkpoint called {which}: leave out --checkpoint")
            folders = {path.name: path}
        else:
            names = ["last", "best"] if which == "both" else [which]
            folders = {n: path / n for n in names if _is_there(path / n)}
            if not folders:
                raise UserError(
                    f"{path} has no checkpoint ({' or '.join(names)}): give the folder of a run of "
                    "train.py, which saves at each evaluation and at the end"
                )
        for name, folder in folders.items():
            run = folder.parent if (folder.parent / "config.json").is_file() else path
            found[folder] = Checkpoint(name, run, *load_checkpoint(folder), _config(run))
    return list(found.values())


def group(checkpoints: Sequence[Checkpoint]) -> dict[tuple[str, str], list[Checkpoint]]:
    """Return checkpoints by their setting and name, (mingru, last): the seeds of it lie together.

    A setting is called by what sets it apart (mingru, lr=0.0001); "" where there is one alone.
    Raises UserError where one has the same seed twice: an interval over seeds would be too narrow.
    """
    settings: dict[str, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        settings.setdefault(json.dumps(_setting(checkpoint), sort_keys=True), []).append(checkpoint)
    names = _labels([_setting(members[0]) for members in settings.values()])
    found: dict[tuple[str, str], list[Checkpoint]] = {}
    for name, members in zip(names, settings.values(), strict=True):
        for member in members:
            others = found.setdefault((name, member.name), [])
            for other in others:
                if member.seed is not None and member.seed == other.seed:
                    raise UserError(
                        f"{other.run} and {member.run} are the same seed, {member.seed}, of the "
                        f"same setting: give one of them"
                    )
            others.append(member)
    return found


def data_returns(checkpoint: Checkpoint) -> np.ndarray | None:
    """Return the returns of the data's episodes; None where neither run nor disk has them."""
    kept = _json(checkpoint.run, DATA_FILE)
    if "returns" in kept:
        returns = kept["returns"]
        if isinstance(returns, list) and returns and fits(returns, list[float]):
            return np.asarray(returns, np.float64)
        raise UserError(f"{checkpoint.run / DATA_FILE} holds no returns: remove it")
    name, data = checkpoint.facts["data"], checkpoint.config.get("data", {})
    try:
        parts = name.split(",")
        if any(part in LOCAL_DATA and not minari_folder.exists(part) for part in parts):
            return None  # it would be rolled out, which takes a while
        weights, env_id = data.get("weights"), data.get("env_id")
        if ":" in str(env_id):
            return None  # it names a module, which a stranger's file is not to have imported
        loaded = sources.load(name, env_id=env_id, weights=weights, download=False, progress=False)
    except UserError:
        return None
    return loaded.returns


def _setting(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return all that a seed does not change and that training depends on, by dotted names."""
    config = {**checkpoint.config, "model": vars(checkpoint.model.config)}
    flat = {
        key: value
        for key, value in saved.flat(config).items()
        if key not in _NOT_A_SETTING
        and not key.startswith(("eval.", "checkpoint."))
        and value is not None
    }
    return flat | {"env": checkpoint.facts["data"], "env_id": checkpoint.facts["env_id"]}


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each setting by the first of its values that tell it from the others."""
    labels = [""] * len(settings)
    keys = dict.fromkeys(["env", "model.backbone", *(key for s in settings for key in s)])
    for key in keys:
        values = [setting.get(key) for setting in settings]
        if len(set(labels)) == len(settings):
            break
        # What follows from another choice (targets from data) tells nothing apart that is not yet.
        pairs = set(zip(labels, map(repr, values), strict=True))
        if len(pairs) > len(set(labels)):
            plain = key in ("env", "model.backbone")
            parts = [str(v) if plain else f"{key.split('.')[-1]}={v}" for v in values]
            labels = [f"{a} {b}".strip() for a, b in zip(labels, parts, strict=True)]
    return labels


def _is_there(folder: Path) -> bool:
    # Under its old name where a save was killed in between two renames; load_checkpoint knows.
    return any((place / AGENT.metadata).is_file() for place in (folder, old_name(folder)))


def _config(run: Path) -> dict[str, Any]:
    """Return what config.json says, of whatever version; UserError where it is no configuration."""
    config = _json(run, "config.json")
    seed, data = config.get("seed"), config.get("data", {})
    if not (seed is None or type(seed) is int) or not isinstance(data, dict):
        raise UserError(f"{run / 'config.json'} is damaged (seed {seed!r:.50}): remove it")
    return config


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return read_json(path, LARGEST) if path.exists() else {}
