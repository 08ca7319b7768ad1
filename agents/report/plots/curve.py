"""Learning curves: the training loss and the returns obtained, over updates."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.loggers.history import LARGEST_NUMBER
from agents.report.plots.theme import LIGHT, Theme, drawing, heading, legend_below, log_scale, style

Metrics = Sequence[Mapping[str, Any]]  # the rows of a run's metrics.jsonl
PREFIX = "eval/return_asked_"


def curve(metrics: Metrics, best_in_data: float | None, title: str, theme: Theme = LIGHT) -> Figure:
    """Plot one run: its loss and, below it, the return obtained for each target."""
    with drawing(theme) as ink:
        figure, above, below = _panels(title)
        above.plot(*_points(metrics, "train/loss"), color=ink, linewidth=1.2)
        names = _asked(metrics)
        for place, name in enumerate(names):
            colour = _shade(place, len(names), theme is LIGHT)
            label = name.removeprefix(PREFIX)
            below.plot(*_points(metrics, name), marker="o", markersize=3, color=colour, label=label)
            below.axhline(names[name], color=colour, linewidth=0.8, linestyle=":")
        _best(below, best_in_data, ink)
        if below.get_legend_handles_labels()[0]:
            below.legend(
                title="asked (dotted)",
                fontsize=7,
                title_fontsize=8,
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
            )
    return figure


def curves(
    runs: Mapping[str, Sequence[Metrics]],
    best_in_data: float | None,
    title: str,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot loss and return for the largest target: a thin line a run, a thick one a setting."""
    with drawing(theme) as ink:
        figure, above, below = _panels(title)
        for place, (name, members) in enumerate(runs.items()):
            for axes, keys in (
                (above, ["train/loss"] * len(members)),
                (below, [_largest_target(metrics) for metrics in members]),
            ):
                points = [_points(m, key) for m, key in zip(members, keys, strict=True)]
                _mean_and_runs(axes, points, style(place), name)
        _best(below, best_in_data, ink)
        below.set_ylabel("mean return\nasked for the largest")
        legend_below(figure, [above, below])
    return figure


def _panels(title: str):
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    log_scale(above)
    above.set_ylabel("training loss")
    above.set_title(heading(title))
    below.set_xlabel("update")
    below.set_ylabel("mean return")
    return figure, above, below


def _best(below: Axes, best_in_data: float | None, ink: str) -> None:
    if best_in_data is not None:
        below.axhline(best_in_data, color=ink, linewidth=0.8, linestyle="--", label="best in data")


def _points(metrics: Metrics, key: str) -> tuple[list[float], list[float]]:
    rows = [(m["update"], m[key]) for m in metrics if key in m]
    return [x for x, _ in rows], [y for _, y in rows]


def _asked(metrics: Metrics) -> dict[str, float]:
    """Return the targets by the names of their metrics; names without a number are left out."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(key for m in metrics for key in m if key.startswith(PREFIX)):
        with contextlib.suppress(ValueError):
            found[name] = float(name.removeprefix(PREFIX))
    return {name: target for name, target in found.items() if abs(target) < LARGEST_NUMBER}


def _largest_target(metrics: Metrics) -> str:
    names = _asked(metrics)
    return max(names, key=lambda name: names[name], default="")


def _mean_and_runs(axes, points, look: dict[str, Any], name: str) -> None:
    points = [(x, y) for x, y in points if x]
    for x, y in points:
        axes.plot(x, y, linewidth=0.8, alpha=0.45, **look)
    shared = sorted(set.intersection(*(set(x) for x, _ in points))) if points else []
    if shared:
        at = [dict(zip(x, y, strict=True)) for x, y in points]
        mean = [float(np.mean([values[update] for values in at])) for update in shared]
        label = name if len(points) == 1 else f"{name}: mean of {len(points)}"
        axes.plot(shared, mean, linewidth=1.6, label=label, **look)


def _shade(place: int, count: int, on_white: bool) -> tuple[float, float, float]:
    """Return the `place`-th of `count` blues, from faint to clear."""
    share = place / max(1, count - 1)
    if on_white:
        return (0.62 * (1 - share), 0.76 - 0.52 * share, 0.95 - 0.3 * share)
    return (0.25 + 0.3 * share, 0.36 + 0.44 * share, 0.5 + 0.5 * share)
