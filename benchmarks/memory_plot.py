"""The plot of docs/memory_tasks.md: learning curves of copying, accuracies of parity."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.memory_data import TASKS

INK, SOFT = "#222222", "#8a919c"
COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#b08900", "#0b7285")
LINES = {1: ":", 2: "-", 3: "--"}
VARIANT = (0, (6, 1, 1, 1, 1, 1))
SHADES = ("#a5c8ff", "#4a8df0", "#123f8c")


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each task, and save them as a PNG."""
    tasks = [task for task in ("copying", "parity") if any(row["task"] == task for row in rows)]
    if not tasks:
        return
    figure = Figure(figsize=(6.2 * len(tasks), 4.8), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        there = [row for row in rows if row["task"] == task]
        (curves if task == "copying" else bars)(axes, best(there))
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def best(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return each model's runs at its best learning rate: that of the best mean accuracy."""
    groups: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault(row["model"], {}).setdefault(row["lr"], []).append(row)

    def right(runs: list[dict[str, Any]]) -> float:
        return statistics.fmean(share for run in runs for share in run["accuracy"].values())

    return {name: max(rates.values(), key=right) for name, rates in groups.items()}


def curves(axes: Axes, models: dict[str, list[dict[str, Any]]]) -> None:
    """Draw accuracy over updates: a colour for each cell, a kind of line for each depth.

    Names are "cell, layers" or "cell, layers, what is different".
    """
    cells = list(dict.fromkeys(name.split(",")[0] for name in models))
    for name, runs in models.items():
        points = zip(*(run["curve"] for run in runs), strict=True)
        found = [(at[0][0], 100 * statistics.fmean(share for _, share in at)) for at in points]
        right = 100 * statistics.fmean(next(iter(run["accuracy"].values())) for run in runs)
        axes.plot(
            *zip(*found, strict=True),
            color=COLOURS[cells.index(name.split(",")[0]) % len(COLOURS)],
            linestyle=VARIANT if name.count(",") > 1 else LINES.get(runs[0]["layers"], "-."),
            linewidth=1.6,
            label=f"{name}: {right:.0f} %",
        )
    guess(axes, 100 * TASKS["copying"].chance)
    axes.set_title("Selective copying: data tokens right", fontsize=10)
    axes.set_xlabel("update")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def bars(axes: Axes, models: dict[str, list[dict[str, Any]]]) -> None:
    """Draw a bar for each model and length, and a dot for each seed."""
    lengths = list(next(iter(models.values()))[0]["accuracy"])
    height = 0.8 / len(lengths)
    for place, length in enumerate(lengths):
        at = [row + (place - (len(lengths) - 1) / 2) * height for row in range(len(models))]
        shares = [[100 * run["accuracy"][length] for run in runs] for runs in models.values()]
        means = [statistics.fmean(found) for found in shares]
        shade = SHADES[place % len(SHADES)]
        axes.barh(at, means, 0.9 * height, color=shade, label=f"length {length}")
        for y, found in zip(at, shares, strict=True):
            axes.plot(found, [y] * len(found), ".", color=INK, markersize=3)
    axes.axvline(100 * TASKS["parity"].chance, color=SOFT, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(models)), list(models), fontsize=9)
    axes.invert_yaxis()
    axes.set_title("Parity of the whole sequence (dots: seeds; dashed: chance)", fontsize=10)
    axes.set_xlabel("accuracy, %")
    axes.set_xlim(0, 102)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


def guess(axes: Axes, percent: float) -> None:
    """Draw a line at the accuracy of a guess."""
    axes.axhline(percent, color=SOFT, linewidth=1, linestyle="--")
    axes.annotate("chance", (1, percent), xycoords=("axes fraction", "data"), fontsize=7.5,
                  ha="right", va="bottom", color=SOFT)  # fmt: skip
