"""The two pictures of a run: what was asked against what was obtained, and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from agents.evaluation import Result

INK, SOFT, COLOURS = "#222222", "#c9ced6", {"last": "#1f6feb", "best": "#d9480f"}


def calibration(
    results: Mapping[str, Sequence[Result]], data_returns: np.ndarray, title: str
) -> Figure:
    """Plot asked against obtained returns, with the data's own returns as a histogram behind."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    behind = axes.twinx()
    behind.hist(data_returns, bins=60, color=SOFT)
    behind.set_yticks([])
    behind.set_zorder(0)
    axes.set_zorder(1)
    axes.patch.set_visible(False)

    everything = [data_returns, *(r.returns for swept in results.values() for r in swept)]
    everything.append(np.array([r.target for swept in results.values() for r in swept]))
    low = min(0.0, *(float(values.min()) for values in everything))
    high = max(float(values.max()) for values in everything)
    high += 0.05 * ((high - low) or 1.0)
    axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--", label="as asked")
    shift = (high - low) * 0.006
    for place, (name, swept) in enumerate(results.items()):
        asked = np.array([r.target for r in swept]) + shift * (place - (len(results) - 1) / 2)
        mean = np.array([r.mean for r in swept])
        low_end, high_end = np.array([np.quantile(r.returns, (0.1, 0.9)) for r in swept]).T
        # A few failures can pull the mean out of the 10 to 90 %: no bar on that side then.
        bars = np.maximum([mean - low_end, high_end - mean], 0)
        axes.errorbar(
            asked,
            mean,
            yerr=bars,
            color=COLOURS.get(name, INK),
            marker="o",
            markersize=5,
            capsize=3,
            linewidth=1.5,
            label=f"{name}: mean, 10 to 90 % of episodes",
        )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("return asked for")
    axes.set_ylabel("return obtained")
    axes.set_title(title, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    patch = behind.patches[0]
    axes.legend([*handles, patch], [*labels, "returns in the data"], frameon=False, fontsize=8)
    return figure


def curve(metrics: Sequence[Mapping[str, Any]], best_in_data: float, title: str) -> Figure:
    """Plot the training loss and, below it, the return obtained for each target, over updates."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    loss = [(m["update"], m["train/loss"]) for m in metrics if "train/loss" in m]
    if loss:
        above.plot(*zip(*loss, strict=True), color=INK, linewidth=1.2)
    above.set_yscale("log")
    above.set_ylabel("training loss")
    above.set_title(title, fontsize=10)

    prefix = "eval/return_asked_"
    names = dict.fromkeys(key for m in metrics for key in m if key.startswith(prefix))
    for place, name in enumerate(names):
        points = [(m["update"], m[name]) for m in metrics if name in m]
        colour = _shade(place, len(names))
        asked = name.removeprefix(prefix)
        below.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=asked)
        below.axhline(float(asked), color=colour, linewidth=0.8, linestyle=":")
    below.axhline(best_in_data, color=INK, linewidth=0.8, linestyle="--", label="best in data")
    below.set_xlabel("update")
    below.set_ylabel("mean return")
    below.legend(
        title="asked (dotted)",
        frameon=False,
        fontsize=7,
        title_fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    return figure


def _shade(place: int, count: int) -> tuple[float, float, float]:
    """Return the `place`-th of `count` colours, from light to dark blue."""
    share = place / max(1, count - 1)
    return (0.62 * (1 - share), 0.76 - 0.52 * share, 0.95 - 0.3 * share)
