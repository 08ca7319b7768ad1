"""Results for programs (JSON: every episode) and, made of that, for a terminal (one table)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation import Result
from envs import score

Report = dict[str, Any]
"""{"protocol": ..., "results": {name of a line: [one row for each target]}}"""


def as_json(results: Mapping[str, Sequence[Result]], protocol: dict[str, Any]) -> Report:
    """Return the results, every single episode included, as JSON types."""
    rows = {name: [row(r, protocol) for r in swept] for name, swept in results.items()}
    return {"protocol": protocol, "results": rows}


def row(result: Result, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return what came of one target: statistics, raw and normalised, and every episode."""
    low, high = protocol["reference_min"], protocol["reference_max"]
    entries: dict[str, Any] = {
        "target": result.target,
        "mean": result.mean,
        "mean_interval_95": list(result.interval(score.row_means)),
        "std": float(result.obtained.std()),
        "iqm": result.iqm,
        "iqm_interval_95": list(result.interval(score.row_iqms)),
        "min": float(result.obtained.min()),
        "max": float(result.obtained.max()),
    }
    normalised = {
        name: None if low is None else score.scaled(entries[of], low, high)
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
        entries["success_interval_95"] = list(result.success_interval() or ())
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
    for place in result.failures:  # JSON has no NaN; a failure is neither a success nor none
        for name in ("returns", "terminated", "success"):
            if name in entries:
                entries[name][place] = None
    return entries


def failed(report: Report) -> list[str]:
    """Return a line on each row of a report in which episodes failed, with the first of them."""
    return [
        f"{name}, asked {row['target']:g}: {row['failed']} of {len(row['returns'])} episodes "
        f"failed and are in no mean; {next(iter(row['failures'].values()))}"
        for name, swept in report["results"].items()
        for row in swept
        if row["failed"]
    ]


def merge(protocols: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the protocols of several lines as one; where they differ, {line: value}."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for protocol in protocols.values() for key in protocol):
        values = {name: protocol.get(key) for name, protocol in protocols.items()}
        first, *others = values.values()
        merged[key] = first if all(other == first for other in others) else values
    return merged


def table(results: Mapping[str, Sequence[Result]], protocol: dict[str, Any]) -> str:
    """Return one table over all lines (`last`, `best`, ...), and the protocol under it."""
    return text(as_json(results, protocol))


def text(report: Report) -> str:
    """Return a report as a table with its protocol, for a terminal of 100 columns.

    With the share of successes where the environment reports them, and the number of episodes that
    failed where there are any.
    """
    rows = [(name, entries) for name, swept in report["results"].items() for entries in swept]
    number = number_format(entries[key] for _, entries in rows for key in ("min", "max"))
    fails = any(entries["failed"] for _, entries in rows)
    succeeds = any("success" in entries for _, entries in rows)
    first = max(12, *(len(name) + 2 for name, _ in rows))
    header = f"{'checkpoint':<{first}}{'asked':>9}{'mean':>9}{'95 %':>18}{'IQM':>9}{'95 %':>18}"
    header += f"{'score':>8}{'success':>9}{'steps':>7}" if succeeds else f"{'score':>8}{'steps':>7}"
    header += f"{'failed':>8}" if fails else ""
    lines = [header, "-" * len(header)]
    for name, entries in rows:
        cells = f"{name:<{first}}{number(entries['target']):>9}"
        for key in ("mean", "iqm"):
            cells += f"{number(entries[key]):>9}"
            cells += f"{interval(entries[f'{key}_interval_95'], number):>18}"
        cells += f"{'-' if entries['score'] is None else format(entries['score'], '.1f'):>8}"
        if succeeds:
            rate = entries.get("success_rate")
            cells += f"{'-' if rate is None else f'{100 * rate:.1f} %':>9}"
        cells += f"{entries['mean_length']:>7.0f}"
        lines.append(cells + (f"{entries['failed']:>8}" if fails else ""))
    lines += ["", *failed(report)] if fails else []
    return "\n".join([*lines, "", score.protocol_text(report["protocol"])])


def number_format(values: Iterable[float]):
    """Return a function that writes returns as fine as their size calls for."""
    digits = 1 if max((abs(value) for value in values), default=0) >= 10 else 2
    return lambda value: f"{value:.{digits}f}"


def interval(ends: Sequence[float] | None, number: Any) -> str:
    """Write an interval; a dash where there is none."""
    return "-" if ends is None else f"[{number(ends[0])}, {number(ends[1])}]"


def best_median_worst(returns: Sequence[float] | np.ndarray) -> dict[str, int]:
    """Return the places of the best, the median and the worst episode of those that have one."""
    values = np.asarray(returns)
    order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]  # NaN comes last
    return {
        "best": int(order[-1]),
        "median": int(order[(len(order) - 1) // 2]),
        "worst": int(order[0]),
    }
