"""A report as one HTML page: no scripts, nothing from elsewhere, light and dark, on any screen."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from agents.report import protocol as report_protocol
from agents.report.media.video import Video
from agents.report.rows import Report, failed, interval, names, number_format

_CSP = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { --paper: #fff; --ink: #222; --soft: #667; --line: #dde1e6; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #d7dce2; --soft: #98a2ad; --line: #333a42; --tint: #1d2126; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p, figcaption, .soft { color: var(--soft); margin: .3rem 0; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem;
  min-width: 100%; }
th, td { padding: .3rem .5rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--tint); font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper); }
thead th:first-child { background: var(--tint); }
td small { color: var(--soft); font-size: .8em; }
figure { margin: 0; }
img, video { display: block; width: 100%; height: auto; }
.figures { display: grid; gap: 1.4rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); align-items: start; }
.videos { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 32rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
details { margin: .6rem 0; } summary { cursor: pointer; }
"""


def page(
    title: str,
    report: Report,
    figures: Mapping[str, tuple[str, bytes, bytes]],
    videos: Mapping[str, Sequence[Video]],
) -> str:
    """Return the page of a report.

    figures: by name, a caption and the picture as SVG, on white and on dark. videos: by line.
    """
    shown = names(report)
    notes = report_protocol.groups(report["protocol"]["note"], shown)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{_group(called, note)}</p>" for called, note in notes),
        "<h2>Returns</h2>",
        "<p>Mean and interquartile mean (IQM) over all episodes, with 95 % intervals.</p>",
        _table(report, shown),
        *(f"<p>{escape(line)}</p>" for line in failed(report)),
        "<h2>Figures</h2>",
        '<div class="figures">',
        *(_figure(*parts) for parts in figures.values()),
        "</div>",
        *(_videos(shown[line], films, _number(report)) for line, films in videos.items()),
        "<h2>Protocol</h2>",
        _protocol(report["protocol"], shown),
        "<h2>Every episode</h2>",
        *(_episodes(report, name, shown[name]) for name in report["results"]),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _number(report: Report):
    """Return what writes returns as the text of the report does."""
    every = (row for swept in report["results"].values() for row in swept)
    return number_format(row[key] for row in every for key in ("min", "max"))


def _table(report: Report, shown: Mapping[str, str]) -> str:
    rows = [(shown[name], row) for name, swept in report["results"].items() for row in swept]
    number = _number(report)
    fails = any(row["failed"] for _, row in rows)
    scored = any(row["score"] is not None for _, row in rows)
    succeeds = any("success" in row for _, row in rows)

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def score(value: float) -> str:
        return f"{value:.1f}"

    head = ["", "asked", "mean", "IQM", "std", "min", "max"]
    head += ["score", "IQM score"] * scored + ["success %"] * succeeds + ["steps"]
    head += ["failed"] * fails
    lines = []
    for name, row in rows:
        cells = [number(row["target"])]
        cells.append(_with_interval(row, "mean", "mean_interval_95", number))
        cells.append(_with_interval(row, "iqm", "iqm_interval_95", number))
        cells += [number(row[key]) for key in ("std", "min", "max")]
        if scored:
            cells.append(_with_interval(row, "score", "score_interval_95", score))
            cells.append(_with_interval(row, "score_iqm", "score_iqm_interval_95", score))
        if succeeds:
            cells.append(_with_interval(row, "success_rate", "success_interval_95", percent))
        cells.append(f"{row['mean_length']:.0f}")
        cells += [str(row["failed"])] * fails
        lines.append([escape(name), *cells])
    return _grid(head, lines)


def _with_interval(row: Mapping[str, Any], key: str, ends: str, number: Any) -> str:
    if row.get(key) is None:
        return "-"
    return f"{number(row[key])} <small>{interval(row[ends], number)}</small>"


def _episodes(report: Report, name: str, shown: str) -> str:
    rows = report["results"][name]
    protocol = report_protocol.of_line(report["protocol"], name, report["results"])
    runs, seed = protocol["runs"], protocol["seeds"][0]
    number = _number(report)
    head = ["run, seed of the episode", *(f"asked {number(row['target'])}" for row in rows)]
    each = range(seed, seed + len(rows[0]["returns"]) // len(runs))
    lines = [[f"{escape(run)}, {i}"] for run in runs for i in each]
    for row in rows:
        for cells, value, steps in zip(lines, row["returns"], row["lengths"], strict=True):
            obtained = "failed" if value is None else number(value)
            cells.append(f"{obtained} <small>{steps} steps</small>")
    return f"<details><summary>{escape(shown)}</summary>{_grid(head, lines)}</details>"


def _grid(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are HTML already, to be scrolled where it is too wide."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n'
        "</table></div>"
    )


def _figure(caption: str, light: bytes, dark: bytes) -> str:
    kind = "image/svg+xml"
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="{_data(kind, dark)}"><img alt="{escape(caption)}" src="{_data(kind, light)}">'
        f"</picture><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _videos(line: str, films: Sequence[Video], number: Callable[[float], str]) -> str:
    cells = "".join(
        f'<figure><video controls playsinline preload="metadata" '
        f'poster="{_data("image/jpeg", film.poster)}" src="{_data("video/mp4", film.mp4)}"></video>'
        f"<figcaption>{escape(film.title)}: return {number(film.total)}, {film.steps} steps; "
        f"{escape(film.run)}, seed {film.seed}</figcaption></figure>"
        for film in films
    )
    asked = f"asked {number(films[0].target)}"
    return f'<h2>Episodes of {escape(line)}, {asked}</h2><div class="videos">{cells}</div>'


def _protocol(protocol: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    entries: list[str] = []
    for name, value in protocol.items():
        written = [_group(*group) for group in report_protocol.groups(value, shown)]
        entries.append(
            f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{'<br>'.join(written)}</dd>\n"
        )
    return f"<dl>{''.join(entries)}</dl>"


def _group(called: str, value: Any) -> str:
    text = escape(report_protocol.plain(value))
    return f'<span class="soft">{escape(called)}:</span> {text}' if called else text


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
