"""A checkpoint is a folder that acts alone: weights and normaliser, and `agent.json`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from agents.storage.folder_formats import AGENT
from agents.storage.metadata import check_metadata
from agents.storage.tensor_folder import Layout, layout, load_folder, refused, save_folder

LARGEST_SIDE = 10_000_000  # numbers in an observation, or in an action
_HOLDERS = {"action_low": "head", "action_high": "head"}
_TENSOR = {
    name: f"{_HOLDERS.get(name, 'normaliser')}.{name}"
    for name in Spaces._fields
    if name not in Spaces._field_defaults
}
"""The tensors that hold what the model was built from, by their names in Spaces."""
MARGIN = 64_000_000
"""Bytes that a model may take beyond its file, in tables and in the state of one environment."""


def save_checkpoint(folder: Path, model: DecisionModel, metadata: dict[str, Any]) -> None:
    """Write `model` and `metadata` (see agents.storage.metadata) to `folder`, atomically.

    Raises UserError where the disk is full or not writable; an older checkpoint then stays.
    """
    agent = {"model": dataclasses.asdict(model.config), **metadata}
    if model.normaliser.obs_offset:  # too fine for a tensor, which may be cast to float32
        agent["obs_offset"] = list(model.normaliser.obs_offset)
    save_folder(folder, model.state_dict(), agent, AGENT)


def load_checkpoint(folder: Path) -> tuple[DecisionModel, dict[str, Any]]:
    """Return the model of `folder`, on the CPU and in eval mode, and the metadata saved with it.

    Raises UserError where there is no checkpoint, or one that is damaged or newer than this code.
    """
    tensors, metadata = load_folder(folder, AGENT, _expected)
    with refused(folder, AGENT):
        metadata = check_metadata(metadata)
        stored: dict[str, Any] = {
            name: tensors[tensor].tolist() for name, tensor in _TENSOR.items()
        }
        stored["obs_offset"] = offset = metadata.pop("obs_offset")
        if len(offset) not in (0, len(stored["obs_mean"])):
            raise ValueError(f"obs_offset has {len(offset)} numbers")
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
            model = DecisionModel(metadata.pop("model"), Spaces(**stored))
        model.load_state_dict(tensors)
    return model.eval(), metadata


def _expected(metadata: dict[str, Any], found: Layout) -> Layout:
    """Return the layout of the model that the metadata describes, which is built without memory."""
    config = check_metadata(metadata)["model"]
    names = _TENSOR["obs_mean"], _TENSOR["action_low"]
    shapes: list[tuple[int, ...]] = [found[name][0] if name in found else () for name in names]
    if any(len(shape) != 1 or not 0 < shape[0] <= LARGEST_SIDE for shape in shapes):
        raise ValueError("it has no sizes of observation and action")
    if config.num_layers > len(found):
        raise ValueError(f"{config.num_layers} layers are more than it has tensors")
    obs, action = ([0.0] * shape[0] for shape in shapes)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = DecisionModel(config, Spaces(obs, obs, action, action, 1.0, 0.0, 0.0))
    wanted = layout(model.state_dict())
    beside = [buffer for name, buffer in model.named_buffers() if name not in wanted]
    more = 4 * model.stack.state_size + sum(buffer.nbytes for buffer in beside)
    if more > MARGIN + sum(math.prod(shape) * dtype.itemsize for shape, dtype in found.values()):
        raise ValueError(f"its model takes {more} bytes beside the weights")
    return wanted
