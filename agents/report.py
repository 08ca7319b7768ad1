"""Results as people read them (one table with its protocol) and as programs do (JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation import Result
from envs import score


def table(results: Mapping[str, Sequence[Result]], env_id: str, protocol: dict[str, Any]) -> str:
    """Return one table over all checkpoints (`last`, `best`, ...), and the protocol under it."""
    header = f"{'checkpoint':<12}{'asked':>9}{'mean':>9}{'std':>8}{'min':>9}{'max':>9}"
    header += f"{'score':>8}{'steps':>7}"
    rows = [header, "-" * len(header)]
    for name, swept in results.items():
        for result in swept:
            normalised = score.normalized(result.mean, env_id)
            rows.append(
                f"{name:<12}{result.target:>9.1f}{result.mean:>9.1f}{result.returns.std():>8.1f}"
                f"{result.returns.min():>9.1f}{result.returns.max():>9.1f}"
                f"{'-' if normalised is None else format(float(normalised), '.1f'):>8}"
                f"{result.lengths.mean():>7.0f}"
            )
    return "\n".join([*rows, "", score.protocol_text(protocol)])


def as_json(
    results: Mapping[str, Sequence[Result]], env_id: str, protocol: dict[str, Any]
) -> dict[str, Any]:
    """Return the results, every single episode included, as JSON types."""

    def row(result: Result) -> dict[str, Any]:
        normalised = score.normalized(result.mean, env_id)
        low, high = score.bootstrap_interval(result.returns, np.mean)
        return {
            "target": result.target,
            "mean": result.mean,
            "mean_interval_95": [low, high],
            "std": float(result.returns.std()),
            "iqm": float(score.iqm(result.returns)),
            "score": None if normalised is None else float(normalised),
            "returns": result.returns.tolist(),
            "lengths": result.lengths.tolist(),
        }

    return {
        "protocol": protocol,
        "results": {name: [row(r) for r in swept] for name, swept in results.items()},
    }
