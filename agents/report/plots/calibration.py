"""Target returns against the returns obtained, in front of a histogram of the data's returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.evaluation.result import Result
from agents.report.plots.theme import LIGHT, Theme, drawing, heading, legend_below, marker, style


def calibration(
    results: Mapping[str, Sequence[Result]],
    data_returns: np.ndarray | None,
    title: str,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot means, 95 % intervals and episodes over the returns asked, in front of the data's."""
    swept = [result for line in results.values() for result in line]
    values = [*(r.obtained for r in swept), np.array([r.target for r in swept])]
    if data_returns is not None:
        values.append(data_returns)
    low = min(0.0, *(float(v.min()) for v in values))
    high = max(float(v.max()) for v in values)
    high += 0.05 * ((high - low) or 1.0)
    with drawing(theme) as ink:
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.add_subplot()
        if data_returns is not None:
            _behind(axes, data_returns, ink)
        axes.plot(
            [low, high], [low, high], color=ink, linewidth=1, linestyle="--", label="as asked"
        )
        shift = (high - low) * 0.008
        for place, (name, line) in enumerate(results.items()):
            _line(axes, place, name, line, shift * (place - (len(results) - 1) / 2))
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel("return asked for")
        axes.set_ylabel("return obtained")
        axes.set_title(heading(title))
        legend_below(figure, [axes])
    return figure


def _behind(axes: Axes, returns: np.ndarray, ink: str) -> None:
    back = axes.twinx()
    back.hist(returns, 60, color=ink, alpha=0.16, linewidth=0)
    back.set_axis_off()
    back.set_zorder(0)
    axes.set_zorder(1)
    axes.patch.set_visible(False)
    label = "returns in the data (height not to scale)"
    axes.fill_between([], [], color=ink, alpha=0.16, linewidth=0, label=label)


def _line(axes: Axes, place: int, name: str, swept: Sequence[Result], shift: float) -> None:
    swept = sorted(swept, key=lambda r: r.target)
    asked = np.array([r.target for r in swept]) + shift
    mean = np.array([r.mean for r in swept])
    ends = np.array([r.mean_interval for r in swept]).T
    failed = sum(len(r.failures) for r in swept)
    axes.errorbar(
        asked,
        mean,
        yerr=np.abs(ends - mean),
        marker=marker(place),
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label=f"{name}: mean, 95 %" + (f" ({failed} episodes failed)" if failed else ""),
        **style(place),
    )
    for x, result in zip(asked, swept, strict=True):
        axes.plot(
            np.full(len(result.obtained), x),
            result.obtained,
            linestyle="none",
            marker=".",
            markersize=4,
            color=style(place)["color"],
            alpha=max(0.06, min(0.3, 6 / len(result.obtained))),
            zorder=1,
        )
