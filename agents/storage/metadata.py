"""Check the metadata of a checkpoint, `agent.json`, which may come from a stranger."""

from __future__ import annotations

from typing import Any

from configs import ModelConfig
from configs.schema import typed

METADATA: dict[str, Any] = {
    "format": int,
    "model": ModelConfig,
    "env_id": str,
    "data": str,
    "targets": list[float],
    "update": int,
    "window": int | None,
    "env_kwargs": dict[str, Any],
    "obs_keys": list[str],
    "env_wrappers": list[tuple[str, dict[str, Any]]],
    "reset_options": dict[str, Any],
    "reference": tuple[float, float, str] | None,
    "notes": list[str],
    "obs_offset": list[float],
}
"""`notes` are those of the data set: repairs, and how the evaluation differs from the recording.
`reference` has the returns of a random and of an expert policy, and where they come from."""
LATER: dict[str, Any] = {
    "env_kwargs": {},
    "obs_keys": [],
    "env_wrappers": [],
    "reset_options": {},
    "reference": None,
    "notes": [],
    "obs_offset": [],
}
"""What older checkpoints lack, and the values that hold for them."""
LARGEST_WINDOW = 100_000  # steps; a window takes memory for each environment


def check_metadata(values: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata, with LATER, and `model` as a ModelConfig. Raises ValueError."""
    known = {name: value for name, value in (LATER | values).items() if name in METADATA}
    found = typed(known, METADATA, "agent.json")
    window = found["window"]
    right = {
        "env_id": 0 < len(found["env_id"]) < 1000,
        "update": found["update"] >= 0,
        "window": window is None or 1 <= window <= LARGEST_WINDOW,
    }
    for name, is_right in right.items():
        if not is_right:
            raise ValueError(f"{name} cannot be {found[name]!r:.50}")
    return found
