"""The time of a step over the episode: constant if the state has a constant size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from agents.report.plots.theme import LIGHT, Theme, drawing, heading, legend_below, log_scale, style

PIECES = 40


def latency(seconds: Mapping[str, np.ndarray], title: str, theme: Theme = LIGHT) -> Figure:
    """Plot median and middle 80 % of a step's time, `seconds` (T,) by line, in up to 40 pieces."""
    with drawing(theme):
        figure = Figure(figsize=(6.4, 3.7), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, taken) in enumerate(seconds.items()):
            step, low, median, high = pieces(taken)
            label = f"{name}: median {np.median(taken) * 1e6:.0f} µs"
            axes.plot(step, median, linewidth=1.5, label=label, **style(place))
            axes.fill_between(step, low, high, color=f"C{place % 6}", alpha=0.2, linewidth=0)
        medians = [np.median(taken) for taken in seconds.values()]
        if max(medians) > 3 * min(medians):
            log_scale(axes)
        else:
            axes.set_ylim(0, 3e6 * max(medians))
        axes.set_xlabel("step of the episode")
        axes.set_ylabel("time of a step, µs")
        axes.set_title(heading(title))
        legend_below(figure, [axes])
    return figure


def pieces(seconds: np.ndarray) -> np.ndarray:
    """Return (4, P) of (T,): the middle step of each of up to 40 pieces, its 10, 50, 90 % in µs."""
    parts = np.array_split(seconds * 1e6, min(PIECES, len(seconds)))
    lengths = np.array([len(part) for part in parts])
    spread = np.array([np.percentile(part, (10, 50, 90)) for part in parts]).T
    return np.vstack([np.cumsum(lengths) - lengths / 2, spread])
