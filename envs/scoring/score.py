"""Scores: normalised returns, robust means with intervals, and the protocol beside each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.worlds.catalog import lookup
from envs.worlds.spec import EnvSpec

RowStatistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Takes (N, n) and returns (N,): a statistic of each row."""

CONVENTION = (
    "Score: D4RL's normalisation, 0 random, 100 expert. Its reference constants were measured on "
    "the environments and data of its time; on gymnasium's, such as Hopper-v5 and "
    "AdroitHandDoor-v1, and on other data sets they are a convention."
)
OWN = (
    "Score: 0 and 100 are the reference returns that the data set itself names, for its own "
    "environment."
)
NONE = "No reference constants: raw returns only."


def reference(
    env: EnvSpec | str,
    own: tuple[float, float, str] | None = None,
) -> tuple[float, float, str] | None:
    """Return the returns of a random policy and of an expert, and their source; None for unknown.

    own: what the data set itself names, which comes before the catalogue's.
    """
    known = None if own else lookup(env)
    return own if known is None else (known.reference_min, known.reference_max, known.source)


def scaled(returns: ArrayLike, minimum: float, maximum: float) -> NDArray[np.float64]:
    """Return normalised scores: 0 for the minimum, 100 for the maximum."""
    return 100.0 * (np.asarray(returns, np.float64) - minimum) / (maximum - minimum)


def normalized(returns: ArrayLike, env: EnvSpec | str) -> NDArray[np.float64] | None:
    """Return D4RL's normalised scores, 0 random to 100 expert; None for an unknown environment."""
    found = reference(env)
    return None if found is None else scaled(returns, *found[:2])


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of all scores.

    floor(n / 4) values are cut off at each end, as rliable does (Agarwal et al., 2021).

    Example:
        >>> iqm([0.0, 40.0, 60.0, 1000.0])
        50.0
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    if not ordered.size:
        raise ValueError("the interquartile mean of no scores")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def row_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row of values (N, n)."""
    return values.mean(1)


def row_iqms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the interquartile mean, as `iqm` has it, of each row of values (N, n)."""
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

    scores: (R, E), E episodes of each of R runs, or (E,) of one; NaN is an episode without a score,
    which no run may have alone. Runs are drawn again, then the episodes within each run drawn:
    episodes of one run are alike, and count as that. So many are drawn of each as the run with the
    fewest scores has.
    """
    values = np.asarray(scores, np.float64)
    if not values.size:
        raise ValueError("the interval of no scores")
    values = np.atleast_2d(values)
    runs, episodes = len(values), np.isfinite(values).sum(1)
    if not episodes.all():
        raise ValueError("the interval of a run without scores")
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
    """Return the Wilson interval (low, high) of a share of successes, of 95 % by default.

    The bootstrap would give no width where all succeed or all fail.

    Example:
        >>> low, high = rate_interval([True] * 20)
        >>> round(low, 3), high
        (0.839, 1.0)
    """
    won = np.asarray(successes, np.bool_)
    if not won.size:
        raise ValueError("the interval of no successes")
    count, rate = won.size, float(won.mean())
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    # Exactly 0 and 1 where none or all succeed, whatever the rounding.
    low = float(middle - half) if won.any() else 0.0
    high = 1.0 if won.all() else float(middle + half)
    return low, high


def protocol(
    *,
    data: str,
    env: EnvSpec | str,
    targets: Sequence[float],
    episodes: int,
    seeds: Sequence[int],
    checkpoint: str = "last",
    own: tuple[float, float, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what a score has to be printed with, fit for JSON.

    data: the data set's id. targets: the returns asked for. episodes: how many for each target.
    seeds: of the first episode. checkpoint: last or best.
    own: as `reference` takes it.
    """
    low, high, source = reference(env, own) or (None, None, None)
    spec = EnvSpec.of(env)
    arguments = {"env_kwargs": dict(spec.kwargs)} if spec.kwargs else {}
    return {
        "data": data,
        "env_id": spec.env_id,
        **arguments,
        "mujoco": _version("mujoco"),
        "gymnasium": _version("gymnasium"),
        "targets": [float(target) for target in targets],
        "episodes": int(episodes),
        "seeds": [int(seed) for seed in seeds],
        "episode_seeds": "episode i, from 0, has the seed above + i: the same for each target",
        "checkpoint": checkpoint,
        "reference_min": low,
        "reference_max": high,
        "reference_source": source,
        "note": NONE if source is None else OWN if own else CONVENTION,
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
