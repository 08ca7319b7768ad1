"""Write a report: report.json, report.html, figures/ and the figures in TensorBoard."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from agents.evaluation.checkpoints import LARGEST
from agents.evaluation.compare import Line
from agents.loggers.base import Start
from agents.loggers.history import read_metrics
from agents.loggers.tensorboard import TensorBoard
from agents.report import grouping, page, plots, rows
from agents.report.media.video import Video
from agents.storage.tensor_folder import read_json
from envs.errors import UserError
from envs.files import write_file, write_json

Draw = Callable[[plots.Theme], Figure]
MOST_RETURNS = 10_001  # of a data set, in report.json
_FIGURE = re.compile(r"figures/[a-z]+(-\d+)?\.(png|pdf|svg)")


def write_report(
    lines: Sequence[Line],
    folder: Path,
    *,
    seconds: Mapping[str, np.ndarray],
    videos: Mapping[str, Sequence[Video]],
    format: str = "png",
) -> rows.Report:
    """Write the report on `lines` into `folder`; return the content of report.json.

    Figures of an earlier report that this one does not have are deleted. seconds: of each step of
    an episode, by line (see agents.evaluation.latency). format: png, pdf or svg, of figures/.
    """
    drawn = figures(lines, seconds)
    files = [f"figures/{name}.{format}" for name in drawn]
    stale = set(_written(folder)) - set(files)
    entries = as_json(lines, seconds, videos) | {"figures": files}
    write_json(folder / "report.json", entries)
    for name in stale:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    embedded: dict[str, tuple[str, bytes, bytes]] = {}
    # It removes the figures of an earlier report.
    with contextlib.closing(TensorBoard(Start(folder, {}), "tensorboard/report")) as board:
        for file, (name, (caption, draw)) in zip(files, drawn.items(), strict=True):
            light = draw(plots.LIGHT)
            write_file(folder / file, plots.render(light, format=format))
            dark = plots.render(draw(plots.DARK), plots.DARK, "svg")
            embedded[name] = (caption, plots.render(light, format="svg"), dark)
            board.figure(name, light)
    html = page.page(title(lines), entries, embedded, videos)
    write_file(folder / "report.html", html.encode())
    return entries


def write_results(lines: Sequence[Line], folder: Path) -> None:
    """Write report.json alone, so that a later error does not lose the episodes played so far."""
    write_json(folder / "report.json", as_json(lines, {}, {}) | {"figures": _written(folder)})


def as_json(
    lines: Sequence[Line],
    seconds: Mapping[str, np.ndarray],
    videos: Mapping[str, Sequence[Video]],
) -> rows.Report:
    """Return the content of report.json: all that figures are drawn from, but learning curves.

    It has the rows of agents.report.rows; "data", the sorted returns of each data set that is known
    (MOST_RETURNS quantiles if there are more); "step_microseconds", the time of a step, and its
    "curve" over the episode; "videos", which episodes were filmed.
    """
    entries = rows.as_json(
        {line.name: line.results for line in lines}, {line.name: line.protocol for line in lines}
    )
    known = {line.members[0].metadata["data"]: line.data for line in lines if line.data is not None}
    entries["data"] = {name: _returns(values) for name, values in known.items()}
    entries["step_microseconds"] = {name: _spread(taken) for name, taken in seconds.items()}
    filmed = {
        name: {film.title: {"seed": film.seed, "return": film.total} for film in films}
        for name, films in videos.items()
    }
    return entries | ({"videos": filmed} if filmed else {})


def title(lines: Sequence[Line]) -> str:
    """Return the title of a report: its data sets, backbones and training seeds, or how many."""
    members = [member for line in lines for member in line.members]
    seeds = [str(member.seed) for member in members if member.seed is not None]
    parts = [
        _listed([member.metadata["data"] for member in members], 2, "data sets"),
        _listed([member.backbone for member in members], 3, "backbones"),
    ]
    if seeds:
        listed, several = _listed(seeds, 5, "seeds"), len(set(seeds)) > 1
        parts.append(listed if "seeds" in listed else f"seed{'s' * several} {listed}")
    return " · ".join(parts)


def _listed(values: Sequence[str], most: int, what: str) -> str:
    distinct = list(dict.fromkeys(values))
    return ", ".join(distinct) if len(distinct) <= most else f"{len(distinct)} {what}"


def figures(
    lines: Sequence[Line], seconds: Mapping[str, np.ndarray]
) -> dict[str, tuple[str, Draw]]:
    """Return each data set's figures: caption and drawing function, by the name of the file."""
    drawn: dict[str, tuple[str, Draw]] = {}
    names = list(dict.fromkeys(line.members[0].metadata["data"] for line in lines))
    for place, data in enumerate(names):
        about = [line for line in lines if line.members[0].metadata["data"] == data]
        suffix = "" if len(names) == 1 else f"-{place + 1}"
        drawn |= {name + suffix: pair for name, pair in _of_data(about).items()}
    if seconds:
        shown = grouping.names({line.name: line.members[0].metadata["data"] for line in lines})
        taken = {shown.get(name, name): values for name, values in seconds.items()}
        caption = "Time of a step over the episode: one environment, its physics in between"
        drawn["latency"] = (caption, lambda theme: plots.latency(taken, "one environment", theme))
    return drawn


def _of_data(lines: Sequence[Line]) -> dict[str, tuple[str, Draw]]:
    heading, data = title(lines), lines[0].data
    results = {_without_data(line, line.name): line.results for line in lines}
    best = None if data is None else float(data.max())
    there = "" if data is not None else " (the data's returns are not on this disk)"
    drawn: dict[str, tuple[str, Draw]] = {}
    caption = f"Asked against obtained{there}"
    drawn["calibration"] = caption, lambda theme: plots.calibration(results, data, heading, theme)
    caption = f"Every return obtained, against those of the data{there}"
    drawn["returns"] = caption, lambda theme: plots.returns(results, data, heading, theme)
    metrics = _metrics(lines)
    every = [logged for members in metrics.values() for logged in members]
    caption = "Training, evaluated on a few other episodes"
    if len(every) == 1:
        drawn["curve"] = caption, lambda theme: plots.curve(every[0], best, heading, theme)
    elif every:
        caption += ": the largest target"
        drawn["curve"] = caption, lambda theme: plots.curves(metrics, best, heading, theme)
    return drawn


def _metrics(lines: Sequence[Line]) -> dict[str, list[list[dict[str, float]]]]:
    """Return the metrics of each run, by setting; once if several of its checkpoints are there."""
    found: dict[str, list[list[dict[str, float]]]] = {}
    seen: set[Path] = set()
    for line in lines:
        for member in line.members:
            if member.run not in seen and (member.run / "metrics.jsonl").is_file():
                seen.add(member.run)
                name = _without_data(line, line.setting) or member.backbone
                found.setdefault(name, []).append(read_metrics(member.run))
    return found


def _without_data(line: Line, name: str) -> str:
    """Return a name without the data set's, which is in the title of the figure."""
    return name.replace(line.members[0].metadata["data"], "", 1).strip()


def _returns(values: np.ndarray) -> dict[str, Any]:
    if len(values) > MOST_RETURNS:
        kept = np.quantile(values, np.linspace(0, 1, MOST_RETURNS))
    else:
        kept = np.sort(values)
    return {"episodes": len(values), "returns": kept.tolist()}


def _spread(seconds: np.ndarray) -> dict[str, Any]:
    low, median, high = np.percentile(seconds * 1e6, (10, 50, 90)).tolist()
    names, values = ("step", "10 %", "median", "90 %"), plots.pieces(seconds).tolist()
    curve = dict(zip(names, values, strict=True))
    return {"steps": len(seconds), "median": median, "10 %": low, "90 %": high, "curve": curve}


def _written(folder: Path) -> list[str]:
    """Return the figures that the report in `folder` lists as its own."""
    try:
        names = read_json(folder / "report.json", LARGEST)["figures"]
        return [name for name in names if _FIGURE.fullmatch(name)]
    except (UserError, KeyError, TypeError):  # no report, or not one of ours
        return []
