"""Which environment is meant, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class EnvSpec:
    """An environment's id, its arguments, and which of its observations are read.

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

    @classmethod
    def of(cls, env: str | EnvSpec) -> EnvSpec:
        """Return the specification of an environment id, or the one given."""
        return cls(env) if isinstance(env, str) else env

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> EnvSpec:
        """Return the specification saved in a table, which may hold other entries, too."""
        return cls(saved["env_id"], saved.get("env_kwargs", {}), tuple(saved.get("obs_keys", ())))

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in saved files."""
        kwargs = dict(self.kwargs)
        return {"env_id": self.env_id, "env_kwargs": kwargs, "obs_keys": list(self.obs_keys)}

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.kwargs.items())
        keys = f" [{', '.join(self.obs_keys)}]" if self.obs_keys else ""
        return self.env_id + (f" ({arguments})" if arguments else "") + keys


def unlimited(bound: ArrayLike) -> NDArray[np.bool_]:
    """Return where a space has no bound: it is infinite, or as large as floats get."""
    return np.abs(np.asarray(bound, np.float64)) >= float(np.finfo(np.float32).max)
