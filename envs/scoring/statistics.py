"""Robust means of scores, and their confidence intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

RowStatistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Takes (N, n) and returns (N,): a statistic of each row."""


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of all scores.

    floor(n / 4) values are cut off at each end, as rliable does (Agarwal et al., 2021).

    Example:
        >>> iqm([0.0, 40.0, 60.0, 1000.0])
        50.0
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    if not ordered.size:
        raise ValueError("an interquartile mean needs at least one score")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def row_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row of values (N, n)."""
    return values.mean(1)


def row_iqms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the interquartile mean (see `iqm`) of each row of values (N, n)."""
    ordered = np.sort(values, axis=1)
    cut = values.shape[1] // 4
    return ordered[:, cut : values.shape[1] - cut].mean(1)


def nested_interval(
    scores: ArrayLike,
    statistic: RowStatistic = row_iqms,
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a bootstrap interval (low, high) of a statistic over training runs and their episodes.

    scores: (R, E), E episodes of each of R runs, or (E,) of one run; NaN is an episode without a
    score, and every run has at least one score. Each sample draws runs with replacement, then
    episodes within each drawn run, because episodes of one run are correlated. The number of
    episodes drawn is that of the run with the fewest scores.

    Where runs differ more than their episodes do, it is too narrow for few runs: of 95 % it holds
    the truth about 50, 70, 85 and 90 % of the time for 2, 3, 5 and 10 runs.
    """
    values = np.asarray(scores, np.float64)
    if not values.size:
        raise ValueError("an interval needs at least one score")
    values = np.atleast_2d(values)
    runs, episodes = len(values), np.isfinite(values).sum(1)
    if not episodes.all():
        raise ValueError("an interval needs at least one score of every run")
    values = np.take_along_axis(values, np.argsort(~np.isfinite(values), 1, kind="stable"), 1)
    rng = np.random.default_rng(seed)
    run = rng.integers(runs, size=(samples, runs, 1))
    same = int(episodes.min()) == int(episodes.max())
    last = int(episodes.min()) if same else episodes[run]
    episode = rng.integers(last, size=(samples, runs, int(episodes.min())))
    draws = statistic(values[run, episode].reshape(samples, -1))
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return float(low), float(high)


def rate_interval(successes: ArrayLike, *, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson interval (low, high) of a success rate, 95 % by default.

    A bootstrap interval would have no width where all episodes succeed or all fail.

    Example:
        >>> low, high = rate_interval([True] * 20)
        >>> round(low, 3), high
        (0.839, 1.0)
    """
    won = np.asarray(successes, np.bool_)
    if not won.size:
        raise ValueError("an interval needs at least one episode")
    count, rate = won.size, float(won.mean())
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    # Exactly 0 and 1 where none or all succeed, whatever the rounding.
    low = float(middle - half) if won.any() else 0.0
    high = 1.0 if won.all() else float(middle + half)
    return low, high
