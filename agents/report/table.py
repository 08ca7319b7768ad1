"""The report as one table of text, with its protocol below, for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agents.report import grouping
from agents.report.rows import Report, names


def failed(report: Report) -> list[str]:
    """Return a sentence for each row of a report with failed episodes, with the first failure."""
    shown = names(report)
    return [
        f"{shown[line]}, asked {row['target']:.10g}: {row['failed']} of {len(row['returns'])} "
        f"episodes failed and are in no mean; {next(iter(row['failures'].values()))}"
        for line, rows in report["results"].items()
        for row in rows
        if row["failed"]
    ]


def text(report: Report) -> str:
    """Return the table and the protocol; names too long to stand beside numbers stand above."""
    shown, number = names(report), report_number(report)
    results = report["results"]
    succeeds = any("success" in row for rows in results.values() for row in rows)
    fails = any(row["failed"] for rows in results.values() for row in rows)
    head = ["checkpoint", "asked", "mean", "95 %", "IQM", "95 %", "score"]
    head += ["success"] * succeeds + ["steps"] + ["failed"] * fails

    def cells(row: Mapping[str, Any]) -> list[str]:
        found = [number(row["target"])]
        for key in ("mean", "iqm"):
            found += [number(row[key]), interval(row[f"{key}_interval_95"], number)]
        found.append("-" if row["score"] is None else f"{row['score']:.1f}")
        if succeeds:
            rate = row.get("success_rate")
            found.append("-" if rate is None else f"{100 * rate:.1f} %")
        found.append(f"{row['mean_length']:.0f}")
        return [*found, str(row["failed"])] if fails else found

    named = [[shown[line], *cells(row)] for line, rows in results.items() for row in rows]
    heading, *lines = aligned([head, *named])
    if len(heading) > grouping.WIDTH:
        heading, *rest = aligned([["", *head[1:]], *(["", *row[1:]] for row in named)])
        following, lines = iter(rest), []
        for line, rows in results.items():
            lines += [shown[line], *(next(following) for _ in rows)]
    lines += ["", *failed(report)] if fails else []
    written = grouping.text(report["protocols"], shown)
    return "\n".join([heading, "-" * len(heading), *lines, "", written])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of text: the first column to the left, the others to the right.

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


def report_number(report: Report) -> Callable[[float], str]:
    """Return the function that writes the returns of a report (see number_format)."""
    every = [row for rows in report["results"].values() for row in rows]
    return number_format(row[key] for row in every for key in ("min", "max"))


def number_format(values: Iterable[float]) -> Callable[[float], str]:
    """Return a function that writes returns: with two decimals if all are below 10, else one.

    With three digits where all are below 0.1, as of rewards in small units.
    """
    largest = max((abs(value) for value in values), default=0)
    if 0 < largest < 0.1:
        return lambda value: f"{value:.3g}"
    return lambda value: f"{value:.{1 if largest >= 10 else 2}f}"


def interval(ends: Sequence[float] | None, number: Callable[[float], str]) -> str:
    """Return an interval as text; a dash if there is none."""
    return "-" if ends is None else f"[{number(ends[0])}, {number(ends[1])}]"
