"""The HTML page of a report: no scripts, nothing from elsewhere, light and dark, on any screen."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agents.report.grouping import entries
from agents.report.media.video import Video
from agents.report.rows import Report, names
from agents.report.table import failed, interval, report_number

Cell = tuple[str, str]  # its text, and smaller text beside it

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["data_uri"] = lambda content, kind: (
    f"data:{kind};base64,{base64.b64encode(content).decode()}"
)


def page(
    title: str,
    report: Report,
    figures: Mapping[str, tuple[str, bytes, bytes]],
    videos: Mapping[str, Sequence[Video]],
) -> str:
    """Return the page. figures: captions and SVGs, on white and on dark. videos: by line."""
    shown, number = names(report), report_number(report)
    protocol = dict(entries(report["protocols"], shown))
    return _TEMPLATES.get_template("page.html.j2").render(
        title=title,
        notes=protocol["note"],
        table=_table(report, shown, number),
        failed=failed(report),
        figures=list(figures.values()),
        videos=[(shown[line], films) for line, films in videos.items()],
        number=number,
        protocol=[(name.replace("_", " "), groups) for name, groups in protocol.items()],
        episodes=[(shown[line], *_episodes(report, line, number)) for line in shown],
    )


def _table(
    report: Report, shown: Mapping[str, str], number: Callable[[float], str]
) -> dict[str, Any]:
    rows = [(shown[line], row) for line, rows in report["results"].items() for row in rows]
    fails = any(row["failed"] for _, row in rows)
    scored = any(row["score"] is not None for _, row in rows)
    succeeds = any("success" in row for _, row in rows)

    head = ["", "asked", "mean", "IQM", "std", "min", "max"]
    head += ["score", "IQM score"] * scored + ["success %"] * succeeds + ["steps"]
    head += ["failed"] * fails
    lines: list[list[Cell]] = []
    for name, row in rows:
        cells = [(name, ""), (number(row["target"]), "")]
        cells += [_with_interval(row, key, number) for key in ("mean", "iqm")]
        cells += [(number(row[key]), "") for key in ("std", "min", "max")]
        if scored:
            for key in ("score", "score_iqm"):
                cells.append(_with_interval(row, key, "{:.1f}".format))
        if succeeds:
            cells.append(_with_interval(row, "success_rate", lambda share: f"{100 * share:.1f}"))
        cells.append((f"{row['mean_length']:.0f}", ""))
        cells += [(str(row["failed"]), "")] * fails
        lines.append(cells)
    return {"head": head, "rows": lines}


def _with_interval(row: Mapping[str, Any], key: str, number: Callable[[float], str]) -> Cell:
    if row.get(key) is None:
        return "-", ""
    return number(row[key]), interval(row[f"{key.removesuffix('_rate')}_interval_95"], number)


def _episodes(
    report: Report, line: str, number: Callable[[float], str]
) -> tuple[list[str], list[list[Cell]]]:
    """Return the head and the rows of the table of a line's episodes."""
    rows, protocol = report["results"][line], report["protocols"][line]
    runs, seed = protocol["runs"], protocol["seeds"][0]
    head = ["run, seed of the episode", *(f"asked {number(row['target'])}" for row in rows)]
    each = range(seed, seed + len(rows[0]["returns"]) // len(runs))
    lines = [[(f"{run}, {i}", "")] for run in runs for i in each]
    for row in rows:
        for cells, value, steps in zip(lines, row["returns"], row["lengths"], strict=True):
            cells.append(("failed" if value is None else number(value), f"{steps} steps"))
    return head, lines
