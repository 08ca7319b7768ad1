"""Reference returns, and the normalised scores made with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.worlds.catalog import lookup
from envs.worlds.spec import EnvSpec


def reference(
    env: EnvSpec | str, own: tuple[float, float, str] | None = None
) -> tuple[float, float, str] | None:
    """Return the returns of a random policy and of an expert, and their source; None if unknown.

    own: the data set's own reference returns, which take precedence over the catalogue's.
    """
    known = None if own else lookup(env)
    return own if known is None else (known.minimum, known.maximum, known.source)


def scaled(returns: ArrayLike, minimum: float, maximum: float) -> NDArray[np.float64]:
    """Return normalised scores: 0 for the minimum, 100 for the maximum."""
    return 100.0 * (np.asarray(returns, np.float64) - minimum) / (maximum - minimum)


def normalized(returns: ArrayLike, env: EnvSpec | str) -> NDArray[np.float64] | None:
    """Return D4RL's normalised scores (0 random, 100 expert); None for an unknown environment."""
    found = reference(env)
    return None if found is None else scaled(returns, *found[:2])
