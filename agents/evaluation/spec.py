"""The options of an evaluation. No torch in here, so that `evaluate.py --help` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from configs.options import Engine, Memory, Stepper


@dataclass(frozen=True)
class EvalSpec:
    """Which returns are asked for, how episodes are played; --help shows the fields' docstrings."""

    targets: tuple[float, ...] = ()
    """Returns to ask for. Default: those the run was evaluated with."""
    episodes: int = 20
    """Episodes for each target; every one of them counts."""
    seed: int = 10_000
    """Episode i starts from `env.reset(seed=seed + i)`, the same for every target."""
    num_envs: int = 120
    """Environments stepped together; it does not change which episodes are played."""
    num_procs: int | None = None
    """Processes that share those environments. Default: as many as are fastest on these cores (one,
    unless the engine is numba, whose actions do not depend on the number of processes)."""
    window: int | None = None
    """Steps of the window. Default: as the run was evaluated, or 20."""
    engine: Engine = "auto"
    """What runs the model's step while the state is carried; `auto` is the fastest that starts
    within seconds."""
    device: str = "cpu"
    """auto, cpu, cuda, ... Acting with so small a model is fastest on the CPU."""
    record: Annotated[bool, tyro.conf.Suppress] = False
    """Keep the actions of each episode."""
    stepper: Annotated[Stepper, tyro.conf.Suppress] = "gymnasium"
    """The library that steps the environments. `envpool` plays other episodes, in threads of one
    process: to choose a checkpoint, never for a reported score."""


@dataclass(frozen=True)
class Plan(EvalSpec):
    """The evaluation of several checkpoints: an EvalSpec that leaves some choices to each run."""

    quantiles: tuple[float, ...] = ()
    """Ask for these quantiles of the data's returns, 0 to 1, instead."""
    memory: tuple[Memory, ...] = ()
    """`carry` the state through the episode, or re-run a `window` of the last steps each time;
    name both to compare them. Default: as the run was evaluated."""
