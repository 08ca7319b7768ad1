"""Histograms of the returns obtained, a panel for each target, against those of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.evaluation.result import Result
from agents.report.plots.theme import LIGHT, Theme, drawing, heading, legend_below, style
from agents.report.table import number_format

COLUMNS, BINS = 3, 40


def returns(
    results: Mapping[str, Sequence[Result]],
    data_returns: np.ndarray | None,
    title: str,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot shares of episodes over their returns, a panel a target, in front of the data's."""
    targets = sorted({result.target for line in results.values() for result in line})
    everything = [result.obtained for line in results.values() for result in line]
    everything.append(np.array(targets))
    if data_returns is not None:
        everything.append(data_returns)
    joined = np.concatenate(everything)
    low, high = float(joined.min()), float(joined.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    number = number_format(joined)
    columns = min(COLUMNS, len(targets))
    rows = -(-len(targets) // columns)
    with drawing(theme) as ink:
        figure = Figure(figsize=(6.4, 1.9 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, target in zip(panels.ravel(), targets, strict=False):
            if data_returns is not None:
                look = {"color": ink, "alpha": 0.3, "linewidth": 0}
                _histogram(axes, data_returns, edges, "returns in the data", look)
            for place, (name, line) in enumerate(results.items()):
                look = {"color": f"C{place % 6}", "alpha": 0.5, "linewidth": 0}
                if len(results) > 3:  # filled, they would hide each other
                    look = style(place) | {"histtype": "step", "linewidth": 1.1}
                for result in line:
                    if result.target == target:
                        failed = f" ({len(result.failures)} failed)" if result.failures else ""
                        _histogram(axes, result.obtained, edges, name + failed, look)
            axes.axvline(target, color=ink, linewidth=1, linestyle="--")
            axes.set_title(f"asked {number(target)}", fontsize=9)
        for axes in panels.ravel()[len(targets) :]:
            axes.set_axis_off()
        for axes in panels[-1]:
            axes.set_xlabel("return")
        for axes in panels[:, 0]:
            axes.set_ylabel("share of episodes")
        figure.suptitle(heading(title), fontsize=10)
        legend_below(figure, panels.ravel())
    return figure


def _histogram(
    axes: Axes, values: np.ndarray, edges: np.ndarray, label: str, look: Mapping[str, Any]
) -> None:
    weights = np.full(len(values), 1 / len(values))
    axes.hist(values, edges.tolist(), weights=weights, label=label, **look)
