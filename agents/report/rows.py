"""Results for programs (JSON: every episode) and, made of that, for a terminal (one table)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.evaluation.evaluator import Result
from agents.report import protocol as protocols
from envs.scoring import score

Report = dict[str, Any]
"""{"protocol": ..., "results": {name of a line: [one row for each target]}}"""


def as_json(results: Mapping[str, Sequence[Result]], protocol: dict[str, Any]) -> Report:
    """Return the results, every single episode included, as JSON types.

    results: by line. protocol: of all lines, or merged (see agents.report.protocol).
    """
    rows, over = {}, {}
    for name, swept in results.items():
        of_line = protocols.of_line(protocol, name, results)
        rows[name] = [row(result, of_line) for result in swept]
        successes = any(result.success is not None for result in swept)
        over[name] = {"intervals": protocols.intervals(swept[0].num_runs, successes)}
    return {"protocol": protocol | protocols.merge(over), "results": rows}


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
    shown = names(report)
    return [
        f"{shown[name]}, asked {row['target']:g}: {row['failed']} of {len(row['returns'])} "
        f"episodes failed and are in no mean; {next(iter(row['failures'].values()))}"
        for name, swept in report["results"].items()
        for row in swept
        if row["failed"]
    ]


def names(report: Report) -> dict[str, str]:
    """Return the names of a report's lines as people read them, by name."""
    lines = report["results"]
    of_line = {name: protocols.of_line(report["protocol"], name, lines) for name in lines}
    return protocols.names({name: entries["data"] for name, entries in of_line.items()})


def table(results: Mapping[str, Sequence[Result]], protocol: dict[str, Any]) -> str:
    """Return one table over all lines (`last`, `best`, ...), and the protocol under it."""
    return text(as_json(results, protocol))


def text(report: Report) -> str:
    """Return a report as a table with its protocol, for a terminal of 100 columns.

    With the share of successes where the environment reports them, and the number of episodes that
    failed where there are any. Where the names of the lines are too long to stand beside their
    numbers, each stands above them.
    """
    shown = names(report)
    every = [entries for swept in report["results"].values() for entries in swept]
    number = number_format(entries[key] for entries in every for key in ("min", "max"))
    succeeds = any("success" in entries for entries in every)
    fails = any(entries["failed"] for entries in every)
    head = ["checkpoint", "asked", "mean", "95 %", "IQM", "95 %", "score"]
    head += ["success"] * succeeds + ["steps"] + ["failed"] * fails

    def cells(name: str, entries: Mapping[str, Any]) -> list[str]:
        found = [name, number(entries["target"])]
        for key in ("mean", "iqm"):
            ends = interval(entries[f"{key}_interval_95"], number)
            found += [number(entries[key]), ends]
        found.append("-" if entries["score"] is None else f"{entries['score']:.1f}")
        if succeeds:
            rate = entries.get("success_rate")
            found.append("-" if rate is None else f"{100 * rate:.1f} %")
        found.append(f"{entries['mean_length']:.0f}")
        return [*found, str(entries["failed"])] if fails else found

    lines = {
        name: [cells(shown[name], entries) for entries in swept]
        for name, swept in report["results"].items()
    }
    heading, *rows = aligned([head, *(row for group in lines.values() for row in group)])
    if len(heading) > protocols.WIDTH:
        bare = [["", *row[1:]] for group in lines.values() for row in group]
        heading, *rest = aligned([["", *head[1:]], *bare])
        following = iter(rest)
        rows = [
            line
            for name, group in lines.items()
            for line in (shown[name], *(next(following) for _ in group))
        ]
    rows += ["", *failed(report)] if fails else []
    written = protocols.text(report["protocol"], shown)
    return "\n".join([heading, "-" * len(heading), *rows, "", written])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines whose columns are as wide as they need; the first to the left.

    Example:
        >>> aligned([["a", "-1.5"], ["last", "2"]])
        ['a     -1.5', 'last     2']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


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
