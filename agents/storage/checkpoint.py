"""A checkpoint is a folder that acts alone: weights and normaliser, and `agent.json`.

Folders appear whole or not at all (envs.files), and loading runs none of their code
(agents.storage.tensor_folder). Formats: 1, without checksums; 2, with SHA256SUMS.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from agents.model.decision import DecisionModel, Spaces
from agents.storage.metadata import check_facts, check_model
from agents.storage.tensor_file import Damaged, Layout, layout
from agents.storage.tensor_folder import AGENT, STATE, Kind, load_folder, refused, save_folder
from envs.files import atomic_folder, write_file, write_json

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
MARGIN = 64_000_000
"""Bytes that a model may take beyond its file, in tables and in the state of one environment."""


def save_checkpoint(folder: Path, model: DecisionModel, facts: dict[str, Any]) -> None:
    """Write `model` and `facts` (see agents.storage.metadata) to `folder`, atomically.

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
        facts = check_facts(facts)
        config = check_model(facts.pop("model"))
        stored: dict[str, Any] = {name: tensors[name].tolist() for name in Spaces._fields}
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
            model = DecisionModel(config, Spaces(**stored))
        model.load_state_dict(tensors)
    return model.eval(), facts


def _expected(facts: dict[str, Any], found: Layout) -> Layout:
    """Return the tensors of the model that the facts describe, which is built without memory."""
    config = check_model(check_facts(facts)["model"])
    shapes: list[tuple[int, ...]] = [
        found[name][0] if name in found else () for name in ("obs_mean", "action_low")
    ]
    if any(len(shape) != 1 or shape[0] < 1 for shape in shapes):
        raise Damaged("it has no sizes of observation and action")
    if config.num_layers > len(found):
        raise Damaged(f"{config.num_layers} layers are more than it has tensors")
    obs, action = ([0.0] * shape[0] for shape in shapes)
    spaces = Spaces(obs, obs, action, action, 1.0, 0.0, 0.0)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = DecisionModel(config, spaces)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise Damaged(f"agent.json describes no model: {reason}") from None
    wanted = layout(model.state_dict())
    beside = [buffer for name, buffer in model.named_buffers() if name not in wanted]
    more = 4 * model.stack.state_size + sum(buffer.nbytes for buffer in beside)
    if more > MARGIN + sum(math.prod(shape) * dtype.itemsize for shape, dtype in found.values()):
        raise Damaged(f"its model takes {more} bytes beside the weights")
    return wanted
