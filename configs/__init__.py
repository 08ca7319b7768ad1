"""Configurations and presets of the two scripts. Imports nothing heavy."""

from configs.base import (
    Config,
    DataConfig,
    DataInfo,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Stepper,
    legible,
    resolve,
    to_dict,
)
from configs.presets import PRESETS

__all__ = [
    "PRESETS",
    "Config",
    "DataConfig",
    "DataInfo",
    "EvalConfig",
    "ModelConfig",
    "OptimConfig",
    "Stepper",
    "legible",
    "resolve",
    "to_dict",
]
