"""A run of train.py's that takes a second: without an environment, in this process."""

from __future__ import annotations

import torch

import train
from agents.evaluation.during_training import Evaluator
from agents.runs.run import Run
from agents.training.build import build, resolve
from configs import CheckpointConfig, Config, DataConfig, EvalConfig, ModelConfig, OptimConfig
from tests.support.models import tiny_data

CPU = torch.device("cpu")


def configured(folder, **more):
    """Return the configuration of a small run without evaluations."""
    return Config(
        env="toy",
        run_dir=folder,
        model=ModelConfig(dim=8, num_layers=1, dropout=0.1),
        data=DataConfig(length=8, batch_size=4),
        optim=OptimConfig(updates=130, warmup=5, ema=0.9),
        eval=EvalConfig(episodes=0, every=60),
        checkpoint=CheckpointConfig(every=10, seconds=0),
        **more,
    )


def go_on(folder, data=None, **more):
    """Return the Run context of the small run, started or resumed."""
    data = data or tiny_data()
    begun = (folder / "config.json").exists()
    config = resolve(configured(folder, resume=folder if begun else None, **more), data)
    return Run(config, data, build(config, data, CPU), Evaluator(config, data, CPU).metadata())


def fit(run):
    train.fit(run, Evaluator(run.config, run.data, CPU))
