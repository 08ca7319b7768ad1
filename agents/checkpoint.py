"""A checkpoint is a folder that acts alone: weights and normaliser, and `agent.json`.

Folders appear whole or not at all (agents.atomic), and loading runs none of their code
(agents.folders). Formats: 1, without checksums; 2, with SHA256SUMS.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from agents.atomic import atomic_folder, write_file, write_json
from agents.decision import DecisionModel, Spaces
from agents.folders import AGENT, STATE, Kind, load_folder, refused, save_folder
from agents.tensorfile import Damaged, Layout, layout
from configs import ModelConfig

__all__ = [
    "AGENT",
    "FORMAT",
    "STATE",
    "Kind",
    "Layout",
    "atomic_folder",
    "layout",
    "load_checkpoint",
    "load_folder",
    "save_checkpoint",
    "save_folder",
    "write_file",
    "write_json",
]

FORMAT = AGENT.format
FACTS = {"format", "model", "env_id", "data", "targets", "update", "window"}
"""What `agent.json` holds: the model's configuration, and all that evaluate.py needs to know."""
LATER_FACTS: dict[str, Any] = {"env_kwargs": {}, "obs_keys": [], "reference": None}
"""What checkpoints of old do not hold, and what it was for them."""


def save_checkpoint(folder: Path, model: DecisionModel, facts: dict[str, Any]) -> None:
    """Write `model` and `facts` (see FACTS) to `folder`, atomically.

    Raises UserError where the disk is full or not writable; an older checkpoint then stays.
    """
    agent = {"model": dataclasses.asdict(model.config), **facts}
    save_folder(folder, model.state_dict(), agent, AGENT)


def load_checkpoint(folder: Path) -> tuple[DecisionModel, dict[str, Any]]:
    """Return the model of `folder`, on the CPU and in eval mode, and the facts saved with it.

    Raises UserError where there is no checkpoint, or one that is damaged or newer than this code.
    """
    tensors, facts = load_folder(folder, AGENT, _expected)
    with refused(folder, AGENT):
        config = _config(facts.pop("model"))
        stored: dict[str, Any] = {name: tensors[name].tolist() for name in Spaces._fields}
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
            model = DecisionModel(config, Spaces(**stored))
        model.load_state_dict(tensors)
    return model.eval(), LATER_FACTS | facts


def _expected(facts: dict[str, Any], found: Layout) -> Layout:
    # The tensors of a model of this configuration, which is built without memory.
    if missing := FACTS - facts.keys():
        raise Damaged(f"{AGENT.facts} lacks {', '.join(sorted(missing))}")
    shapes = [found[name][0] if name in found else () for name in ("obs_mean", "action_low")]
    if any(len(shape) != 1 for shape in shapes):
        raise Damaged("it has no sizes of observation and action")
    (num_obs,), (num_actions,) = shapes
    obs, action = [0.0] * num_obs, [0.0] * num_actions
    spaces = Spaces(obs, obs, action, action, 1.0, 0.0, 0.0)
    config = _config(facts["model"])
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = DecisionModel(config, spaces)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise Damaged(f"no such model: {error}") from None
    return layout(model.state_dict())


def _config(model: Any) -> ModelConfig:
    try:
        return ModelConfig(**model)
    except (TypeError, ValueError) as error:
        raise Damaged(f"model of {AGENT.facts}: {error}") from None
