"""Which environment is meant, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Wrapper = tuple[str, Mapping[str, Any]]
"""The name of one of gymnasium's wrappers, and its arguments."""


@dataclass(frozen=True)
class EnvSpec:
    """An environment's id, its arguments and wrappers, and which of its observations are read.

    Example:
        >>> spec = EnvSpec("Hopper-v5", {"max_episode_steps": 9})
        >>> EnvSpec.from_json(spec.to_json()) == spec
        True
        >>> str(spec)
        'Hopper-v5 (max_episode_steps=9)'
    """

    env_id: str = ""
    """Such as Hopper-v5; "" where it is not known."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What gym.make needs beside the id, fit for JSON."""
    obs_keys: tuple[str, ...] = ()
    """Parts of a Dict observation, in the order of the flat vector; () is all, sorted by name."""
    wrappers: tuple[Wrapper, ...] = ()
    """The wrappers around it, from the inside out, also those that gym.make puts there; () is
    gym.make's. See envs.worlds.wrappers."""
    reset_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The `options` of every reset."""

    @classmethod
    def of(cls, env: str | EnvSpec) -> EnvSpec:
        """Return the specification of an environment id, or the one given."""
        return cls(env) if isinstance(env, str) else env

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> EnvSpec:
        """Return the specification saved in a table, which may hold other entries, too."""
        return cls(
            saved["env_id"],
            saved.get("env_kwargs", {}),
            tuple(saved.get("obs_keys", ())),
            tuple((name, arguments) for name, arguments in saved.get("env_wrappers", ())),
            saved.get("reset_options", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in saved files, which have wrappers and options if there are any.

        Thus files without them are as older versions wrote them.
        """
        found: dict[str, Any] = {"env_id": self.env_id, "env_kwargs": dict(self.kwargs)}
        found["obs_keys"] = list(self.obs_keys)
        if self.wrappers:
            found["env_wrappers"] = [[name, dict(more)] for name, more in self.wrappers]
        if self.reset_options:
            found["reset_options"] = dict(self.reset_options)
        return found

    def __str__(self) -> str:
        keys = f" [{', '.join(self.obs_keys)}]" if self.obs_keys else ""
        found = self.env_id + _arguments(self.kwargs) + keys
        for name, arguments in self.wrappers:
            found += f" in {name}{_arguments(arguments)}"
        return found + (f", reset with{_arguments(self.reset_options)}" * bool(self.reset_options))


def _arguments(given: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}={value}' for name, value in given.items())})" * bool(given)


def unlimited(bound: ArrayLike) -> NDArray[np.bool_]:
    """Return where a space has no bound: it is infinite, or as large as floats get."""
    return np.abs(np.asarray(bound, np.float64)) >= float(np.finfo(np.float32).max)
