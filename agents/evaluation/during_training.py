"""Evaluations of a run: quick ones choose the best checkpoint, the last one is reported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from agents.evaluation.evaluate import evaluate
from agents.evaluation.protocol import describe_checkpoint, line_protocol
from agents.evaluation.result import Result
from agents.evaluation.spec import EvalSpec
from agents.loggers.console import episode_bar, say
from agents.machine.ranks import ALONE, Ranks
from agents.model.decision import DecisionModel
from configs import Config
from envs.data.trajectories import Trajectories
from envs.rollout import TooManyFailed

QUICK_SEEDS = 1_000_000
"""Added to the seed of quick evaluations: the best of several checkpoints was lucky in the episodes
that it was chosen by, so that the report needs others."""


class Evaluator:
    """Evaluates the agents of a run in the environment of its data; ranks share the episodes."""

    def __init__(
        self, config: Config, data: Trajectories, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.data, self.ranks = config, data, ranks
        self.spec = EvalSpec(
            targets=config.eval.targets or (),
            episodes=config.eval.episodes,
            seed=config.eval.seed,
            num_envs=config.eval.num_envs,
            num_procs=1,
            window=config.data.length if config.eval.memory == "window" else None,
            device=str(device),
        )

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of this run's checkpoints (see agents.storage.metadata)."""
        return {
            **self.data.env.to_json(),
            "data": self.data.name,
            "targets": list(self.spec.targets),
            "window": self.spec.window,
            "reference": self.data.reference,
            "notes": list(self.data.notes),
        }

    def quick(self, model: DecisionModel) -> tuple[dict[str, float], float]:
        """Return metrics, and the mean return for the highest target: -inf if too many failed."""
        options = self.config.eval
        spec = dataclasses.replace(
            self.spec,
            episodes=options.quick_episodes,
            seed=options.seed + QUICK_SEEDS,
            stepper=options.stepper,
        )
        try:
            results = self._evaluate(model, spec)
        except TooManyFailed as error:
            say(f"note   not evaluated; training continues: {error}")
            return {"failed": 1.0}, -math.inf
        metrics = {f"return_asked_{r.target:.10g}": r.mean for r in results}
        rates = {f"success_asked_{r.target:.10g}": r.success_rate for r in results}
        metrics |= {name: rate for name, rate in rates.items() if rate is not None}
        metrics |= {f"failed_asked_{r.target:.10g}": len(r.failures) for r in results if r.failures}
        top = max(results, key=lambda r: r.target)
        best = abs(float(self.data.returns.max())) or 1.0
        error = sum(abs(r.mean - r.target) for r in results) / len(results) / best
        return {**metrics, "calibration_error": error}, top.mean

    def final(self, models: Mapping[str, DecisionModel]) -> dict[str, list[Result]]:
        """Play the episodes of the report with each model."""
        return {name: self._evaluate(model, self.spec) for name, model in models.items()}

    def protocol(self, name: str, update: int) -> dict[str, Any]:
        """Return the protocol of `final` for the checkpoint `name` (last or best) of `update`."""
        config = dataclasses.asdict(self.config)
        checkpoint = describe_checkpoint(name, [update], [config])
        return line_protocol(self.metadata(), self.spec, checkpoint, training_seed=self.config.seed)

    def _evaluate(self, model: DecisionModel, spec: EvalSpec) -> list[Result]:
        total = len(range(self.ranks.rank, len(spec.targets) * spec.episodes, self.ranks.size))
        with episode_bar("evaluate", total, hidden=not self.ranks.writer) as progress:
            return evaluate(model, self.data.env, spec, ranks=self.ranks, progress=progress)
