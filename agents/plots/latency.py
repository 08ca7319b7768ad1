"""What a step costs, over the time in the episode: flat, where the state has a constant size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from agents.plots.theme import LIGHT, Theme, drawing, legend_below, log_scale, style

PIECES = 40


def latency(seconds: Mapping[str, np.ndarray], title: str, theme: Theme = LIGHT) -> Figure:
    """Plot the median time of a step, and the middle 80 %, in up to 40 pieces of an episode.

    seconds: (T,) the time that each step took, by the name of what took it.
    """
    with drawing(theme):
        figure = Figure(figsize=(6.4, 3.7), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, taken) in enumerate(seconds.items()):
            pieces = np.array_split(taken * 1e6, min(PIECES, len(taken)))
            ends = np.cumsum([len(piece) for piece in pieces])
            middle = ends - np.array([len(piece) for piece in pieces]) / 2
            low, median, high = np.array([np.percentile(p, (10, 50, 90)) for p in pieces]).T
            label = f"{name}: median {np.median(taken) * 1e6:.0f} µs"
            axes.plot(middle, median, linewidth=1.5, label=label, **style(place))
            axes.fill_between(middle, low, high, color=f"C{place % 6}", alpha=0.2, linewidth=0)
        medians = [np.median(taken) for taken in seconds.values()]
        if max(medians) > 3 * min(medians):
            log_scale(axes)
        else:
            axes.set_ylim(0, 3e6 * max(medians))
        axes.set_xlabel("step of the episode")
        axes.set_ylabel("time of a step, µs")
        axes.set_title(title)
        legend_below(figure, axes)
    return figure
