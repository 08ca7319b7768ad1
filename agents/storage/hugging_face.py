"""Reads a Decision Transformer of Hugging Face's transformers, which is not needed for that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from agents.model.decision import DecisionModel
from agents.model.normaliser import Spaces
from configs import ModelConfig
from envs.errors import UserError

_SAME: dict[str, Any] = {
    "action_tanh": True,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""Settings whose other values are other equations; transformers' defaults."""
_WINDOW = 20  # steps; the length that Decision Transformers are trained with


def load_decision_transformer(
    folder: Path | str,
    *,
    obs_mean: Sequence[float],
    obs_std: Sequence[float],
    return_scale: float = 1000.0,
    action_low: Sequence[float] | None = None,
    action_high: Sequence[float] | None = None,
    window: int = _WINDOW,
) -> DecisionModel:
    """Return a DecisionModel, in eval mode, with the weights of a DecisionTransformerModel.

    folder: what `save_pretrained` wrote, config.json and model.safetensors. obs_mean, obs_std (O,)
    and return_scale: what the training divided by, which the folder does not have. action_low,
    action_high (A,): the bounds, -1 and 1 by default. window: the steps that it attends to, from
    the start of an episode as theirs; act with `Policy(model, targets, window=window)`.
    Raises UserError where a file is missing, or an equation is not that of the preset dt.
    """
    folder = Path(folder)
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        config = _config(settings, weights, window)
        size = weights["predict_action.0.weight"].shape[0]
        spaces = Spaces(
            list(obs_mean),
            list(obs_std),
            [-1.0] * size if action_low is None else list(action_low),
            [1.0] * size if action_high is None else list(action_high),
            return_scale,
            float(torch.finfo(torch.float32).min),
            float(torch.finfo(torch.float32).max),
        )
        model = DecisionModel(config, spaces)
        buffers = dict(model.named_buffers())
        own = {name: x for name, x in model.state_dict().items() if name in buffers}
        model.load_state_dict(_renamed(weights, config.num_layers) | own)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: {reason}; save the model with save_pretrained") from None
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} is not a Decision Transformer that fits: {reason}") from None
    return model.eval()


def _config(settings: Mapping[str, Any], weights: Mapping[str, Tensor], window: int) -> ModelConfig:
    for name, same in _SAME.items():
        if settings.get(name, same) != same:
            raise ValueError(f"{name} is {settings[name]!r}, here it is {same!r}")
    activation = settings.get("activation_function", "relu")
    if activation not in ("relu", "gelu"):
        raise ValueError(f"activation_function is {activation!r}, here it is relu or gelu")
    times, dim = weights["embed_timestep.weight"].shape
    return ModelConfig(
        backbone="attention",
        dim=dim,
        num_layers=len({name.split(".")[2] for name in weights if name.startswith("encoder.h.")}),
        cell={
            "window": 3 * window,
            "num_heads": int(settings.get("n_head", 1)),
            "positions": "none",
        },
        mlp_ratio=weights["encoder.h.0.mlp.c_fc.weight"].shape[1] / dim,
        activation=activation,
        norm="layernorm",
        tokens="interleaved",
        prev_action=True,
        timestep_embedding=times,
        rtg_scales=0,
    )


def _renamed(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    names = {
        "embed_return": "tokens.embed.rtg.linear",
        "embed_state": "tokens.embed.obs",
        "embed_action": "tokens.embed.action",
        "embed_ln": "embed_norm",
        "encoder.ln_f": "stack.norm",
        "predict_action.0": "head.mean",
    }
    turned: dict[str, str] = {}  # stored as (inputs, outputs)
    for i in range(layers):
        theirs, ours = f"encoder.h.{i}", f"stack.blocks.{i}"
        names |= {f"{theirs}.ln_1": f"{ours}.norm1", f"{theirs}.ln_2": f"{ours}.norm2"}
        turned |= {
            f"{theirs}.attn.c_attn": f"{ours}.mixer.qkv",
            f"{theirs}.attn.c_proj": f"{ours}.mixer.out",
            f"{theirs}.mlp.c_fc": f"{ours}.mlp.0",
            f"{theirs}.mlp.c_proj": f"{ours}.mlp.2",
        }
    found = {"tokens.embed.timestep.weight": weights["embed_timestep.weight"]}
    for theirs, ours in (names | turned).items():
        weight = weights[f"{theirs}.weight"]
        found[f"{ours}.weight"] = weight.t().contiguous() if theirs in turned else weight
        found[f"{ours}.bias"] = weights[f"{theirs}.bias"]
    # Every token is given position 0.
    found["embed_norm.bias"] = found["embed_norm.bias"] + weights["encoder.wpe.weight"][0]
    return found
