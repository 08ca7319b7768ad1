"""One table: what is known about each environment, and where each number comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.behaviour.mixes import ENVIRONMENTS, LEVELS
from envs.behaviour.pointmaze import RECIPES

_D4RL = "D4RL infos.py"
_LOCOMOTION = "D4RL infos.py; measured on D4RL's -v2 data sets, gym 0.2x MuJoCo environments"


@dataclass(frozen=True)
class Reference:
    """Reference returns of one family of environments: score = 100 (R - min) / (max - min)."""

    family: str
    minimum: float
    """Mean return of a random policy."""
    maximum: float
    """Mean return of an expert."""
    horizon: int
    """Steps of the time limit."""
    pattern: str
    """Regular expression of the environment ids."""
    source: str


@dataclass(frozen=True)
class EnvSpec:
    """What the catalogue knows about one environment id."""

    env_id: str
    family: str
    horizon: int
    reference_min: float
    reference_max: float
    source: str
    """Where the reference numbers come from."""


REFERENCES = (
    Reference("hopper", -20.272305, 3234.3, 1000, r"Hopper-v\d+", _LOCOMOTION),
    Reference("halfcheetah", -280.178953, 12135.0, 1000, r"HalfCheetah-v\d+", _LOCOMOTION),
    Reference("walker2d", 1.629008, 4592.3, 1000, r"Walker2d-v\d+", _LOCOMOTION),
    Reference("ant", -325.6, 3879.7, 1000, r"Ant-v\d+", _LOCOMOTION),
    Reference("pen", 96.262799, 3076.8331017826877, 200, r"AdroitHandPen-v\d+", _D4RL),
    Reference("door", -56.512833, 2880.5693087298737, 200, r"AdroitHandDoor-v\d+", _D4RL),
    Reference("hammer", -274.856578, 12794.134825156867, 200, r"AdroitHandHammer-v\d+", _D4RL),
    Reference("relocate", -6.425911, 4233.877797728884, 200, r"AdroitHandRelocate-v\d+", _D4RL),
)

LOCAL_DATA = {
    f"minrnn/{family}/{level}-v0": (family, level) for family in ENVIRONMENTS for level in LEVELS
} | {f"minrnn/pointmaze/{maze}-v0": ("pointmaze", maze) for maze in RECIPES}
"""Ids of the data sets that are rolled out here, with their family and level."""


def lookup(env_id: str) -> EnvSpec | None:
    """Return what is known about an environment id, None where nothing is.

    The version is not told apart: Hopper-v2 to -v5 share D4RL's constants, by convention.
    """
    for row in REFERENCES:
        if re.fullmatch(row.pattern, env_id):
            return EnvSpec(env_id, row.family, row.horizon, row.minimum, row.maximum, row.source)
    return None
