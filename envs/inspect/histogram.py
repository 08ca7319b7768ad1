"""Histograms of a data set, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Trajectories
from envs.errors import UserError

BINS, WIDTH = 16, 40  # rows, characters


def text(values: NDArray[np.floating], bins: int = BINS, width: int = WIDTH) -> str:
    """Return a histogram as text: one line for each bin, or one where all values are equal.

    Example:
        >>> print(text(np.array([0.0, 1.0, 1.0, 2.0]), bins=2, width=6))
              0.00  ##  1
              1.00  ######  3
    """
    span = float(np.ptp(values))
    if span == 0:
        return f"{values[0]:>10,.6g}  {'#' * width}  {len(values)}"
    counts, edges = np.histogram(values, bins=bins)
    digits = max(0, 2 - int(np.floor(np.log10(max(span, 1e-9)))))
    return "\n".join(
        f"{edge:>10,.{digits}f}  {'#' * round(width * count / counts.max())}  {count}"
        for edge, count in zip(edges, counts, strict=False)
    )


def draw(data: Trajectories, path: Path) -> None:
    """Save histograms of returns and lengths as a PNG; UserError where it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{data.name}: {data.num_episodes:,} episodes, {data.num_steps:,} steps")
    for axes, values, name in zip(
        figure.subplots(1, 2), (data.returns, data.lengths), ("return", "length"), strict=True
    ):
        axes.hist(values, bins=60, color="#1f6feb")
        axes.axvline(values.mean(), color="#222222", linestyle="--", linewidth=1)
        axes.set(xlabel=f"{name} (dashed: mean {values.mean():,.1f})", ylabel="episodes")
        axes.spines[["top", "right"]].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path} ({error}); choose another --plot") from error
