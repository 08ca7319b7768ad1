"""Configurations and presets of the two scripts. Imports nothing heavy."""

from configs import saved
from configs.choices import DataInfo, legible, resolve
from configs.options import (
    CheckpointConfig,
    Config,
    DataConfig,
    Engine,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Stepper,
    to_dict,
)
from configs.presets import PRESETS

__all__ = [
    "PRESETS",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DataInfo",
    "Engine",
    "EvalConfig",
    "ModelConfig",
    "OptimConfig",
    "Stepper",
    "legible",
    "resolve",
    "saved",
    "to_dict",
]
