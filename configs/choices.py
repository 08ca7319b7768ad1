"""Make the choices that a configuration leaves open, from the data that it is for."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from configs.options import Config


@dataclass(frozen=True)
class DataInfo:
    """What `resolve` needs to know of a data set."""

    env_id: str
    returns: tuple[float, ...]
    """Return of every episode."""
    max_length: int
    """Steps of the longest episode."""
    horizon: int | None
    """Time limit of the environment, where it is known."""


TARGET_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
HAVE_FORGET_BIAS = {"mingru", "minlstm", "lstm"}


def resolve(config: Config, info: DataInfo) -> Config:
    """Return `config` with every choice made: no field is None that depends on the data."""
    best = max(info.returns)
    data, evaluation = config.data, config.eval
    if data.return_scale is None:
        scale = max(abs(best), abs(min(info.returns)))
        data = dataclasses.replace(data, return_scale=float(scale) or 1.0)
    if evaluation.targets is None:
        quantiles = [quantile(info.returns, q) for q in TARGET_QUANTILES]
        # Few or equal episodes give equal quantiles: ask for each once.
        targets = tuple(dict.fromkeys(legible(target) for target in [*quantiles, best]))
        evaluation = dataclasses.replace(evaluation, targets=targets)
    steps = max(info.max_length, info.horizon or 0)
    if 0 < config.model.timestep_embedding < steps:
        raise ValueError(
            f"--model.timestep-embedding {config.model.timestep_embedding} is shorter than an "
            f"episode ({steps} steps): raise it, or use 0 (no embedding)"
        )
    model = config.model
    if model.forget_bias is None:
        bias = 3.0 if HAVE_FORGET_BIAS & {*model.backbones} == {"minlstm"} else 0.0
        model = dataclasses.replace(model, forget_bias=bias)
    return dataclasses.replace(config, model=model, data=data, eval=evaluation)


def legible(value: float) -> float:
    """Return a target return rounded to four digits; larger ones to a tenth."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return round(value, max(1, 3 - magnitude))


def quantile(values: tuple[float, ...], q: float) -> float:
    """Return the linearly interpolated `q` quantile of `values` (NumPy's default definition)."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
