"""The table of reference returns: their numbers for each environment, and their sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.worlds.spec import EnvSpec
from envs.worlds.wrappers import KEEP_RETURNS

_D4RL = "D4RL infos.py"
_LOCOMOTION = "D4RL infos.py; measured on D4RL's -v2 data sets, gym 0.2x MuJoCo environments"
_MAZE2D = "D4RL infos.py; measured on maze2d, whose goal is fixed and 0.5 wide (PointMaze: 0.45)"
_ANTMAZE = "D4RL infos.py: the share of episodes that reach the goal; D4RL's ant is another one"
_KITCHEN = "D4RL infos.py: the number of tasks done, of four"

_DEFAULTS = {"continuing_task": True, "remove_task_when_completed": True}


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
    needs: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Allowed values of the environment's arguments, None for one that is neither given nor in
    _DEFAULTS. With other values, returns have another meaning."""


def _among(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: value in allowed


def _of_steps(limit: int) -> dict[str, Callable[[Any], bool]]:
    """Return what an environment needs to have this time limit, which is the registered one."""
    return {"max_episode_steps": _among(limit, None)}


def _four(tasks: Any) -> bool:
    return isinstance(tasks, list | tuple) and len(set(map(str, tasks))) == 4


def _maze2d(maze: str, minimum: float, maximum: float, horizon: int, default: int) -> Reference:
    """Return D4RL's numbers for a maze whose time limit today is `default`."""
    # Every step at the goal is rewarded: returns compare only for the same number of steps.
    steps = (horizon, None) if horizon == default else (horizon,)
    needs = {"continuing_task": _among(True), "max_episode_steps": _among(*steps)}
    family = f"maze2d-{maze.lower().replace('dense', '-dense')}"
    pattern = rf"PointMaze_{maze}-v\d+"
    return Reference(family, minimum, maximum, horizon, pattern, _MAZE2D, needs)


REFERENCES = (
    *(
        Reference(family, low, high, 1000, rf"{name}-v\d+", _LOCOMOTION, _of_steps(1000))
        for family, name, low, high in (
            ("hopper", "Hopper", -20.272305, 3234.3),
            ("halfcheetah", "HalfCheetah", -280.178953, 12135.0),
            ("walker2d", "Walker2d", 1.629008, 4592.3),
            ("ant", "Ant", -325.6, 3879.7),
        )
    ),
    # Of 100 steps, each of which can be rewarded; AdroitHandPen-v1 has 200.
    Reference(
        *("pen", 96.262799, 3076.8331017826877, 100, r"AdroitHandPen-v\d+", _D4RL),
        {"max_episode_steps": _among(100)},
    ),
    *(
        Reference(name.lower(), low, high, 200, rf"AdroitHand{name}-v\d+", _D4RL, _of_steps(200))
        for name, low, high in (
            ("Door", -56.512833, 2880.5693087298737),
            ("Hammer", -274.856578, 12794.134825156867),
            ("Relocate", -6.425911, 4233.877797728884),
        )
    ),
    _maze2d("Open", 0.01, 20.66, 150, 300),
    _maze2d("UMaze", 23.85, 161.86, 300, 300),
    _maze2d("Medium", 13.13, 277.39, 600, 600),
    _maze2d("Large", 6.7, 273.99, 800, 800),
    _maze2d("OpenDense", 11.17817, 27.166538620695782, 150, 300),
    _maze2d("UMazeDense", 68.537689, 193.66285642381482, 300, 300),
    _maze2d("MediumDense", 44.264742, 297.4552547777125, 600, 600),
    _maze2d("LargeDense", 30.569041, 303.4857382709002, 800, 800),
    *(
        Reference(
            *("antmaze", 0.0, 1.0, horizon, pattern, _ANTMAZE),
            {"continuing_task": _among(False)},
        )
        for horizon, pattern in (
            (700, r"AntMaze_UMaze-v\d+"),
            (1000, r"AntMaze_(Medium|Large)(_Diverse_GR?)?-v\d+"),
        )
    ),
    Reference(
        *("kitchen", 0.0, 4.0, 280, r"FrankaKitchen-v\d+", _KITCHEN),
        {"tasks_to_complete": _four, "remove_task_when_completed": _among(True)},
    ),
)


def lookup(env: EnvSpec | str) -> Reference | None:
    """Return the reference of an environment with these arguments; None where there is none.

    The version does not matter: Hopper-v2 to -v5 share D4RL's constants, by convention.
    """
    spec = EnvSpec.of(env)
    if spec.reset_options or not all(name in KEEP_RETURNS for name, _ in spec.wrappers):
        return None
    given = {**_DEFAULTS, **spec.kwargs}
    for row in REFERENCES:
        usable = all(fits(given.get(name)) for name, fits in row.needs.items())
        if usable and re.fullmatch(row.pattern, spec.env_id):
            return row
    return None
