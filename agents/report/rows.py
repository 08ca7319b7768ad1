"""The results as rows for programs (JSON): statistics and every episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation.protocol import intervals
from agents.evaluation.result import Result
from agents.report import grouping
from envs.scoring import references

Report = dict[str, Any]
"""{"protocols": {line: protocol}, "results": {line: [one row for each target]}}, and more."""


def as_json(
    results: Mapping[str, Sequence[Result]], protocols: Mapping[str, grouping.Protocol]
) -> Report:
    """Return the results by line, every single episode included, and the protocols, as JSON."""
    report: Report = {"protocols": {}, "results": {}}
    for line, found in results.items():
        successes = any(result.success is not None for result in found)
        over = {"intervals": intervals(found[0].num_runs, successes)}
        report["protocols"][line] = protocols[line] | over
        report["results"][line] = [row(result, protocols[line]) for result in found]
    return report


def names(report: Report) -> dict[str, str]:
    """Return the names of the lines for people, by the names that a report has for them."""
    return grouping.names({line: report["protocols"][line]["data"] for line in report["results"]})


def row(result: Result, reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return one target's statistics, raw and by the reference of a protocol, and its episodes."""
    low, high = reference["reference_min"], reference["reference_max"]
    entries: dict[str, Any] = {
        "target": result.target,
        "mean": result.mean,
        "mean_interval_95": list(result.mean_interval),
        "std": float(result.obtained.std()),
        "iqm": result.iqm,
        "iqm_interval_95": list(result.iqm_interval),
        "min": float(result.obtained.min()),
        "max": float(result.obtained.max()),
    }
    for name, of in (("score", "mean"), ("score_iqm", "iqm")):
        for part in ("", "_interval_95"):
            value = None if low is None else references.scaled(entries[of + part], low, high)
            entries[name + part] = None if value is None else value.tolist()
    if result.success is not None:
        entries["success_rate"] = result.success_rate
        entries["success_interval_95"] = list(result.success_interval or ())
    entries["mean_length"] = result.mean_length
    if result.num_runs > 1:
        entries["mean_of_each_run"] = np.nanmean(result.by_run(result.returns), 1).tolist()
    entries["failed"] = len(result.failures)
    if result.failures:
        entries["failures"] = {str(place): text for place, text in result.failures.items()}
    for name in ("returns", "lengths", "terminated", "success"):
        values = getattr(result, name)
        if values is not None:
            entries[name] = values.tolist()
    for place in result.failures:  # JSON has no NaN
        for name in ("returns", "terminated", "success"):
            if name in entries:
                entries[name][place] = None
    return entries


def best_median_worst(returns: Sequence[float] | np.ndarray) -> dict[str, int]:
    """Return the places of the best, the median and the worst episode that finished."""
    values = np.asarray(returns)
    order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]  # NaN comes last
    places = order[-1], order[(len(order) - 1) // 2], order[0]
    return dict(zip(("best", "median", "worst"), map(int, places), strict=True))
