"""Results as people read them (one table with its protocol) and as programs do (JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation import Result
from envs import score


def table(results: Mapping[str, Sequence[Result]], protocol: dict[str, Any]) -> str:
    """Return one table over all checkpoints (`last`, `best`, ...), and the protocol under it.

    With the share of successes where the environment reports them.
    """
    succeeds = any(result.success is not None for swept in results.values() for result in swept)
    header = f"{'checkpoint':<12}{'asked':>9}{'mean':>9}{'std':>8}{'min':>9}{'max':>9}"
    header += f"{'score':>8}{'success':>9}{'steps':>7}" if succeeds else f"{'score':>8}{'steps':>7}"
    rows = [header, "-" * len(header)]
    for name, swept in results.items():
        for result in swept:
            normalised = _score(result, protocol)
            rate = "-" if result.success_rate is None else f"{100 * result.success_rate:.1f} %"
            rows.append(
                f"{name:<12}{result.target:>9.1f}{result.mean:>9.1f}{result.returns.std():>8.1f}"
                f"{result.returns.min():>9.1f}{result.returns.max():>9.1f}"
                f"{'-' if normalised is None else format(normalised, '.1f'):>8}"
                f"{f'{rate:>9}' if succeeds else ''}{result.lengths.mean():>7.0f}"
            )
    return "\n".join([*rows, "", score.protocol_text(protocol)])


def as_json(results: Mapping[str, Sequence[Result]], protocol: dict[str, Any]) -> dict[str, Any]:
    """Return the results, every single episode included, as JSON types."""

    def row(result: Result) -> dict[str, Any]:
        low, high = score.bootstrap_interval(result.returns, np.mean)
        entries = {
            "target": result.target,
            "mean": result.mean,
            "mean_interval_95": [low, high],
            "std": float(result.returns.std()),
            "iqm": float(score.iqm(result.returns)),
            "score": _score(result, protocol),
            "returns": result.returns.tolist(),
            "lengths": result.lengths.tolist(),
        }
        if result.success is not None:
            entries["success_rate"] = result.success_rate
            entries["success_interval_95"] = list(score.rate_interval(result.success))
            entries["success"] = result.success.tolist()
        return entries

    return {
        "protocol": protocol,
        "results": {name: [row(r) for r in swept] for name, swept in results.items()},
    }


def _score(result: Result, protocol: dict[str, Any]) -> float | None:
    low, high = protocol["reference_min"], protocol["reference_max"]
    return None if low is None else float(score.scaled(result.mean, low, high))
