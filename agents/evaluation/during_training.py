"""The evaluations of a run: quick ones choose the best checkpoint, the last one is reported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from agents.evaluation import evaluator
from agents.evaluation.evaluator import Result
from agents.evaluation.protocol import describe_checkpoint
from agents.loggers.console import episode_bar, say
from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from configs import Config, Stepper
from envs.data.trajectories import Trajectories
from envs.rollout import TooManyFailed
from envs.scoring.protocol import score_protocol

QUICK_SEEDS = 1_000_000
"""Quick evaluations play other episodes than the report: the best of several is lucky with its
own."""


class Judge:
    """Try agents in the environment of a run's data."""

    def __init__(
        self, config: Config, data: Trajectories, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        """`ranks` share the episodes of each evaluation."""
        self.config, self.data, self.device, self.ranks = config, data, device, ranks
        self.targets = config.eval.targets or ()
        self.window = config.data.length if config.eval.memory == "window" else None

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint is to say of its environment (see agents.storage.metadata)."""
        data = self.data
        return {
            **data.env.to_json(),
            "data": data.name,
            "targets": list(self.targets),
            "window": self.window,
            "reference": data.reference,
        }

    def quick(self, model: DecisionModel) -> tuple[dict[str, float], float]:
        """Return metrics for the log, and the mean return for the highest target.

        Where too many episodes failed, that is noted, and the return is minus infinity: training
        does not depend on it.
        """
        options = self.config.eval
        try:
            results = self._play(
                model, options.quick_episodes, options.seed + QUICK_SEEDS, options.stepper
            )
        except TooManyFailed as error:
            say(f"note   not evaluated, and training goes on: {error}")
            return {"failed": 1.0}, -math.inf
        asked = {f"return_asked_{r.target:g}": r.mean for r in results}
        rates = {f"success_asked_{r.target:g}": r.success_rate for r in results}
        asked |= {name: rate for name, rate in rates.items() if rate is not None}
        asked |= {f"failed_asked_{r.target:g}": len(r.failures) for r in results if r.failures}
        top = max(results, key=lambda r: r.target)
        return {**asked, **self._relative_error(results)}, top.mean

    def final(self, models: Mapping[str, DecisionModel]) -> dict[str, list[Result]]:
        """Play the episodes of the report with each model."""
        options = self.config.eval
        return {
            name: self._play(model, options.episodes, options.seed)
            for name, model in models.items()
        }

    def protocol(self, name: str, update: int) -> dict[str, Any]:
        """Return the protocol of `final` for the checkpoint `name` (last or best) of `update`."""
        config, data = self.config, self.data
        return score_protocol(
            data=data.name,
            env=data.env,
            targets=self.targets,
            episodes=config.eval.episodes,
            seeds=[config.eval.seed],
            checkpoint=describe_checkpoint(name, [update], [dataclasses.asdict(config)]),
            own=data.reference,
            memory=evaluator.describe_memory(self.window),
            training_seed=config.seed,
        )

    def _play(
        self, model: DecisionModel, episodes: int, seed: int, stepper: Stepper = "gymnasium"
    ) -> list[Result]:
        total = len(range(self.ranks.rank, len(self.targets) * episodes, self.ranks.size))
        with episode_bar("evaluate", total, hidden=not self.ranks.writer) as progress:
            return evaluator.evaluate(
                model,
                self.data.env,
                self.targets,
                episodes=episodes,
                seed=seed,
                num_envs=self.config.eval.num_envs,
                window=self.window,
                device=self.device,
                stepper=stepper,
                ranks=self.ranks,
                progress=progress,
            )

    def _relative_error(self, results: Sequence[Result]) -> dict[str, float]:
        """Return the mean distance between asked and obtained, over the data's best return."""
        best = abs(float(self.data.returns.max())) or 1.0
        error = sum(abs(r.mean - r.target) for r in results) / len(results) / best
        return {"calibration_error": error}
