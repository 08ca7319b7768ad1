"""The plot of benchmarks/host_curves.py: a panel for each task, a line for each memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.host_tasks import OPTIMUM, VELOCITIES

COLOURS = {"minGRU": "#1f6feb", "minLSTM": "#2b8a3e", "LSTM": "#d9480f", "none": "#8a919c"}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw means over seeds, and bands from the least to the greatest; save them as a PNG."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(5.2 * len(tasks), 4.4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for memory, colour in COLOURS.items():
            runs = [row for row in rows if (row["task"], row["memory"]) == (task, memory)]
            if not runs:
                continue
            x, low, mean, high = bands([dict(map(tuple, row["curve"])) for row in runs])
            name = f"{'no memory' if memory == 'none' else memory}, learning rate {rate(runs[0])}"
            axes.plot(x, mean, color=colour, linewidth=1.8, label=name)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if task in OPTIMUM:
            axes.axhline(OPTIMUM[task], color="#222222", linewidth=0.8, linestyle=":")
        axes.set_title(f"{task}, no velocities" if task in VELOCITIES else task, fontsize=10)
        axes.set_xlabel("environment steps, thousands")
        axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}")
        axes.set_ylabel("return of training episodes")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def rate(row: dict[str, Any], to: str = " to ") -> str:
    """Return the learning rate of a run; two where it falls."""
    return f"{row['learning_rate']:g}" + (f"{to}0" if row["decay"] else "")


def bands(curves: Sequence[dict[float, float]]) -> tuple[list[float], ...]:
    """Return steps, and the least, mean and greatest return there, where all curves have one."""
    x = sorted(set.intersection(*(set(curve) for curve in curves)))
    points = [[curve[at] for curve in curves] for at in x]
    return (
        x,
        [min(found) for found in points],
        [statistics.fmean(found) for found in points],
        [max(found) for found in points],
    )
