"""The protocol of a score: how it was measured, and which references it is relative to."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from envs.scoring.references import reference
from envs.worlds.spec import EnvSpec

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


def score_protocol(
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
    """Return the protocol of a score: what it must be reported with, fit for JSON.

    data: the data set's id. targets: target returns. episodes: the number for each target.
    seeds: of the first episode. checkpoint: last or best. own: see `reference`. more: others.
    """
    low, high, source = reference(env, own) or (None, None, None)
    spec = EnvSpec.of(env)
    made = spec.to_json()
    names = ("env_kwargs", "obs_keys", "env_wrappers", "reset_options")
    arguments = {name: made[name] for name in names if made.get(name)}
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
