"""What is mutated, and loaded: checkpoints of each backbone, and states of both samplers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agents.loggers.run_log import check_position
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs
from agents.model.normaliser import Spaces
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.storage.folder_formats import STATE
from agents.storage.tensor_folder import save_folder
from agents.storage.training_state import States, capture, check_run
from agents.training.objectives import ReturnConditioned
from agents.training.trainer import Trainer
from configs import ModelConfig, OptimConfig
from envs.data.sampler import PackedSampler, WindowSampler
from tests.support.models import tiny_data, tiny_model

METADATA = {"env_id": "Toy-v0", "data": "toy/toy-v0", "targets": [1.0, 2.0], "update": 3}
METADATA |= {
    "window": None,
    "env_kwargs": {"speed": 2},
    "obs_keys": ["a"],
    "reference": [0, 1, "x"],
}
MODELS: dict[str, dict[str, Any]] = {
    "mingru": {},
    "minlstm": {"backbone": "minlstm", "learn_initial_state": True, "rtg_scales": 0},
    "attention": {"backbone": "attention,mingru", "tokens": "interleaved", "prev_action": True},
    "learned": {"backbone": "attention", "cell": {"window": 8, "positions": "learned"}},
    "mamba": {"backbone": "mamba", "conv": 4, "timestep_embedding": 50},
    "s4d": {"backbone": "s4d", "mlp_ratio": 0.0},
    "mlstm": {"backbone": "mlstm"},
    "slstm": {"backbone": "slstm"},
    "rwkv": {"backbone": "rwkv", "norm": "rmsnorm"},
}
SAMPLERS = {"packed": PackedSampler, "windows": WindowSampler}
NAME = "0000000003"
"""Of the folder that a case is in, as a state's."""


class Checkpoints:
    """Checkpoints of each of MODELS, and how they are loaded."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint of each."""
        torch.manual_seed(0)
        spaces = Spaces([0.0] * 3, [1.0] * 3, [-1.0] * 2, [1.0] * 2, 10.0, 0.0, 50.0)
        for name, options in MODELS.items():
            model = DecisionModel(ModelConfig(**{"dim": 8, "num_layers": 2} | options), spaces)
            save_checkpoint(folder / name, model, METADATA)

    def load(self, case: Path, base: str) -> DecisionModel:
        """Return the model of a case."""
        del base
        return load_checkpoint(case)[0]

    def act(self, model: DecisionModel) -> None:
        """Take a step, so that what was loaded is whole."""
        with torch.no_grad():
            now, start = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
            obs, last = torch.zeros(1, model.obs_dim), torch.zeros(1, model.action_dim)
            one = torch.ones(1, 1)
            model.step(Inputs(obs, one, last, now, start, prev_reward=one))


class SavedStates:
    """States of a run with each of SAMPLERS, and how they are restored."""

    def __init__(self) -> None:
        self.trainers: dict[str, Trainer] = {}
        for name, sampler in SAMPLERS.items():
            torch.manual_seed(0)
            optim = OptimConfig(updates=23, warmup=4, ema=0.9)
            batches = sampler(tiny_data(), 4, 8)
            self.trainers[name] = Trainer(
                ReturnConditioned(tiny_model()), batches, optim, torch.device("cpu")
            )

    def save(self, folder: Path) -> None:
        """Write the state of each after some updates."""
        for name, trainer in self.trainers.items():
            for update in trainer.fit():
                if update == int(NAME):
                    break
            tensors, metadata = capture(trainer)
            metadata |= {"evaluated": 3, "best_score": 1.5, "best_update": 2}
            metadata["log"] = {"seconds": 1.0, "metrics": 7, "tensorboard": {"events": 9}}
            metadata["data"] = {"episodes": 12, "steps": 200, "sha256": "0" * 64}
            metadata["machine"] = {"torch": "2", "device": "cpu", "threads": 1, "ranks": 1}
            save_folder(folder / name, tensors, metadata, STATE)

    def load(self, case: Path, base: str) -> Trainer:
        """Return the trainer of the base, restored from the case."""
        States(case.parent, 1).restore(self.trainers[base], str, check)
        return self.trainers[base]

    def act(self, trainer: Trainer) -> None:
        """Make an update, so that what was loaded is whole."""
        next(trainer.fit(), None)


def check(metadata: dict[str, Any]) -> None:
    """Check what a run saves beside its trainer's metadata, as a resumed run does."""
    check_run(metadata)
    check_position(metadata["log"])


LOADERS: dict[str, type[Checkpoints | SavedStates]] = {
    "checkpoints": Checkpoints,
    "states": SavedStates,
}
