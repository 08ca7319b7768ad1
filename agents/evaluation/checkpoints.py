"""The checkpoints of runs, the returns of their data, and which runs are seeds of one setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.model.decision import DecisionModel
from agents.storage.checkpoint import load_checkpoint
from agents.storage.folder_formats import AGENT
from agents.storage.tensor_folder import read_json
from configs import Config, saved, to_dict
from configs.schema import fits
from envs import sources
from envs.errors import UserError
from envs.files import old_name
from envs.sources.local import LOCAL_DATA
from envs.sources.minari import folder as minari_folder
from envs.worlds.spec import EnvSpec

DATA_FILE = "data.json"
"""The returns of all episodes that a run was trained on; beside its config.json."""
LARGEST = 64_000_000  # bytes of config.json and of data.json; a million returns take 20 MB
_OF_ENV: dict[str, Any] = {
    "env_kwargs": dict[str, Any],
    "reset_options": dict[str, Any],
    "obs_keys": list[str],
}
_NOT_A_SETTING = {
    *("seed", "run_dir", "resume", "resume_if_there", "device", "threads", "deterministic"),
    *("preset", "log", "data.cache", "data.download", "optim.compile"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A trained agent, and the run that it is from."""

    name: str
    """last, best, or the name of a checkpoint's own folder."""
    run: Path
    """The run's folder."""
    model: DecisionModel
    metadata: dict[str, Any]
    """The content of its agent.json (see agents.storage.metadata)."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """The run's config.json; empty if there is none."""

    @property
    def seed(self) -> int | None:
        """The training seed, if it is known."""
        return self.config.get("seed")

    @property
    def env(self) -> EnvSpec:
        """The environment of the data that it was trained on."""
        return EnvSpec.from_json(self.metadata)

    @property
    def backbone(self) -> str:
        """The name of the cell, or of the cells."""
        return self.model.config.backbone


def find(paths: Sequence[Path], which: str = "both") -> list[Checkpoint]:
    """Load checkpoints (last, best or both) of runs, or from their own paths; UserError if none."""
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
    """Return the seeds of each setting, by setting and name of the checkpoint: (mingru, last).

    A setting is named by what sets it apart from the others (mingru, lr=0.0001); "" if there is
    only one. Raises UserError if a setting has the same seed twice: an interval over seeds would
    be too narrow.
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
                        "same setting: give one of them"
                    )
            others.append(member)
    return found


def data_returns(checkpoint: Checkpoint) -> np.ndarray | None:
    """Return the returns of the data's episodes; None if neither the run nor the disk has them."""
    kept = _json(checkpoint.run, DATA_FILE)
    if "returns" in kept:
        returns = kept["returns"]
        if isinstance(returns, list) and returns and fits(returns, list[float]):
            return np.asarray(returns, np.float64)
        raise UserError(f"{checkpoint.run / DATA_FILE} holds no returns: remove it")
    name, data = checkpoint.metadata["data"], checkpoint.config.get("data", {})
    try:
        parts = name.split(",")
        if any(part in LOCAL_DATA and not minari_folder.exists(part) for part in parts):
            return None  # it would be generated, which takes a while
        weights, env_id = data.get("weights"), data.get("env_id")
        if ":" in str(env_id):
            return None  # it names a module, and a file must not choose what is imported
        given = {name: data[name] for name in _OF_ENV if name in data}
        if not all(fits(value, _OF_ENV[name]) for name, value in given.items()):
            return None
        more = {**given, "env_id": env_id, "weights": weights, "download": False, "progress": False}
        return sources.load(name, **more).returns
    except UserError:
        return None


def _setting(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what training depends on, except for the seed, by dotted names."""
    config = {**checkpoint.config, "model": vars(checkpoint.model.config)}
    # An option that an older run does not have was at its default.
    values = saved.flat(to_dict(Config())) | saved.flat(config)
    flat = {
        key: value
        for key, value in values.items()
        if key not in _NOT_A_SETTING
        and not key.startswith(("eval.", "checkpoint."))
        and value is not None
    }
    made = checkpoint.metadata
    return flat | {
        "env": made["data"],
        "env_id": made["env_id"],
        "env_wrappers": made["env_wrappers"],  # older runs were evaluated without them
    }


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name each setting by the first of its values that distinguish it from the others."""
    labels = [""] * len(settings)
    for key in dict.fromkeys(["env", "model.backbone", *(key for s in settings for key in s)]):
        values = [setting.get(key) for setting in settings]
        if len(set(labels)) == len(settings):
            break
        # Values that follow from another one (targets from data) distinguish nothing more.
        pairs = set(zip(labels, map(repr, values), strict=True))
        if len(pairs) > len(set(labels)):
            plain = key in ("env", "model.backbone")
            parts = [str(v) if plain else f"{key.split('.')[-1]}={v}" for v in values]
            labels = [f"{a} {b}".strip() for a, b in zip(labels, parts, strict=True)]
    return labels


def _is_there(folder: Path) -> bool:
    # It has its old name if a save was killed between two renames; load_checkpoint knows that.
    return any((place / AGENT.metadata).is_file() for place in (folder, old_name(folder)))


def _config(run: Path) -> dict[str, Any]:
    """Return the content of config.json, of any version; UserError if it is not a configuration."""
    config = _json(run, "config.json")
    seed, data = config.get("seed"), config.get("data", {})
    if not (seed is None or type(seed) is int) or not isinstance(data, dict):
        raise UserError(f"{run / 'config.json'} is damaged (seed {seed!r:.50}): remove it")
    return config


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return read_json(path, LARGEST) if path.exists() else {}
