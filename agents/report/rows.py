"""The results as rows for programs (JSON): statistics and every episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation.protocol import intervals
from agents.evaluation.result import Result
from agents.report import protocol
from envs.scoring import references

Report = dict[str, Any]
"""{"protocols": {line: protocol}, "results": {line: [one row for each target]}}, and more."""


def as_json(
    results: Mapping[str, Sequence[Result]], protocols: Mapping[str, protocol.Protocol]
) -> Report:
    """Return the results of each line, every single episode included, and its protocol, as JSON.

    results, protocols: by line.
    """
    report: Report = {"protocols": {}, "results": {}}
    for line, found in results.items():
        successes = any(result.success is not None for result in found)
        over = {"intervals": intervals(found[0].num_runs, successes)}
        report["protocols"][line] = protocols[line] | over
        report["results"][line] = [row(result, protocols[line]) for result in found]
    return report


def names(report: Report) -> dict[str, str]:
    """Return the names of the lines for people, by the names that a report has for them."""
    return protocol.names({line: report["protocols"][line]["data"] for line in report["results"]})


def row(result: Result, reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of one target: statistics, raw and normalised, and every episode.

    reference: a protocol, of which "reference_min" and "reference_max" are read.
    """
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
    normalised = {
        name: None if low is None else references.scaled(entries[of], low, high)
        for name, of in (
            ("score", "mean"),
            ("score_interval_95", "mean_interval_95"),
            ("score_iqm", "iqm"),
            ("score_iqm_interval_95", "iqm_interval_95"),
        )
    }
    entries |= {name: None if v is None else v.tolist() for name, v in normalised.items()}
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
    return {
        "best": int(order[-1]),
        "median": int(order[(len(order) - 1) // 2]),
        "worst": int(order[0]),
    }
