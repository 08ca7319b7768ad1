"""The spaces of an environment, compared with those that a data set was recorded with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from envs.errors import one_line
from envs.worlds.flat import FlatObservation, Part, bounds, parts
from envs.worlds.make import EnvLike, make_vector_env
from envs.worlds.spec import unlimited

_MOST = 10_000  # numbers in an observation whose bounds are kept
_SIDES = ("low", "high")
Bounds = tuple[float, ...]


@dataclass(frozen=True)
class Interface:
    """The spaces of an environment or a data set: flat observations (O,) and actions (A,)."""

    obs_dim: int
    """O"""
    parts: tuple[str, ...]
    """The name and size of each part of an observation, in the order of the flat vector."""
    obs_low: Bounds
    """(O,) or, where an observation is very large, ()"""
    obs_high: Bounds
    action_low: Bounds
    """(A,)"""
    action_high: Bounds

    @classmethod
    def of(cls, obs: Sequence[Part], action: spaces.Box) -> Interface:
        """Return the interface of these parts of observations, and this space of actions."""
        size = sum(part.width for part in obs)
        low, high = (bounds(obs, side) if size <= _MOST else () for side in (0, 1))
        sides = map(_bounds, (low, high, action.low, action.high))
        return cls(size, tuple(map(str, obs)), *sides)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Interface:
        """Return what `to_json` gave; TypeError, ValueError or LookupError where it is not that."""
        sides = (_bounds(saved[f"{of}_{side}"]) for of in ("obs", "action") for side in _SIDES)
        return cls(int(saved["obs_dim"]), tuple(one_line(part) for part in saved["parts"]), *sides)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @property
    def action_dim(self) -> int:
        """A"""
        return len(self.action_low)

    def other_parts(self, env: Interface) -> str | None:
        """Return how the parts differ from the environment's, as text; None where they do not."""
        if self.parts == env.parts:
            return None
        return f"observations {', '.join(self.parts)}, and not {', '.join(env.parts)}"

    def other_actions(self, env: Interface) -> str | None:
        """Return how the bounds of actions differ, where both have some; None if they do not."""
        return _differ(self.action_low, self.action_high, env.action_low, env.action_high)

    def other_obs(self, env: Interface) -> str | None:
        """Return how the bounds of observations differ, where both have some; None if not."""
        return _differ(self.obs_low, self.obs_high, env.obs_low, env.obs_high)


def interface(env: EnvLike) -> Interface:
    """Return the interface of an environment; UserError where its spaces are not vectors."""
    made, name = make_vector_env(env)
    try:
        assert isinstance(made.action_space, spaces.Box)
        flat = isinstance(made, FlatObservation)
        obs = made.parts if flat else parts(made.observation_space, where=name)
        return Interface.of(obs, made.action_space)
    finally:
        made.close()


def _bounds(values: ArrayLike) -> Bounds:
    return tuple(np.asarray(values, np.float64).tolist())


def _differ(low: Bounds, high: Bounds, other_low: Bounds, other_high: Bounds) -> str | None:
    """Return the first place at which bounds differ that are finite on both sides, as text."""
    sides = [np.asarray(side) for side in (low, high, other_low, other_high)]
    if len({side.shape for side in sides}) > 1:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        width = np.maximum(sides[1] - sides[0], sides[3] - sides[2])
    same = _alike(sides[0], sides[2], width) & _alike(sides[1], sides[3], width)
    if same.all():
        return None
    at = int(np.argmin(same))
    least, most, other_least, other_most = (float(side[at]) for side in sides)
    return (
        f"[{least:g}, {most:g}] and not [{other_least:g}, {other_most:g}] (number {at}; "
        f"{int((~same).sum())} of {len(same)} differ)"
    )


def _alike(
    one: NDArray[np.float64], other: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.bool_]:
    # width: of the range, so that small units count as others do.
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(one - other) <= 1e-4 * np.where(np.isfinite(width), width, 0.0)
    return close | (one == other) | unlimited(one) | unlimited(other)
