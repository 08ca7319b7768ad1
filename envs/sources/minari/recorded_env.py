"""The environment of a Minari data set, compared with the registered one of the same id."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any, cast

from gymnasium.envs import registration

from envs.worlds.make import registered
from envs.worlds.spec import EnvSpec
from envs.worlds.wrappers import MADE_AGAIN, noticed

_ENDLESS = 100  # a time limit of more than so many times the registered one is for recording


@dataclass(frozen=True)
class Environment:
    """The environment to act in, as a data set names it."""

    spec: EnvSpec
    horizon: int | None = None
    """The time limit that the data was recorded with, where it is known."""
    notes: tuple[str, ...] = ()
    """What is not as it was in the recording, in words."""


def environment(about: dict[str, Any]) -> Environment:
    """Read a Minari data set's metadata: its eval_env_spec where it has one, else its env_spec.

    Some environments are recorded without an end (PointMaze) and evaluated with one. Raises
    ValueError, TypeError or AttributeError where the fields are not what they should be.
    """
    recorded = _table(about.get("env_spec"), "env_spec")
    evaluated = _table(about.get("eval_env_spec"), "eval_env_spec")
    spec = evaluated or recorded
    env_id = str(spec.get("id") or "")
    if ":" in env_id:  # gym.make would import what stands before it
        raise ValueError(f"the environment {env_id} names a module")
    plain = registered(env_id)
    kwargs = _other_kwargs(spec, plain)
    notes: list[str] = []
    limit, usual = _steps(spec), None if plain is None else plain.max_episode_steps
    if limit is not None and limit != usual:
        if not evaluated and usual is not None and limit > _ENDLESS * usual:
            notes.append(
                f"recorded in {env_id} with a time limit of {limit} steps; evaluation has {usual}"
            )
        else:
            kwargs["max_episode_steps"] = limit
    stored = spec.get("additional_wrappers") or []
    wrappers = noticed(stored)
    registered_ones = () if plain is None else plain.additional_wrappers
    if wrappers == noticed(map(vars, registered_ones)):
        wrappers = ()
    found = EnvSpec(env_id, kwargs, wrappers=wrappers)
    if wrappers and all(name in MADE_AGAIN for name, _ in wrappers):
        notes.append(f"recorded through wrappers, which evaluation has, too: {found}")
    if not spec:
        notes.append(
            "its metadata have no env_spec, which Minari leaves out where a wrapper was given "
            "functions or arrays (TransformReward, RescaleAction with an array): record it again "
            "without such a wrapper"
        )
    return Environment(found, _steps(recorded), tuple(notes))


def _table(text: str | None, name: str) -> dict[str, Any]:
    """Return the JSON object in a field of the metadata, {} where there is none."""
    found = json.loads(text or "{}")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no table")
    return cast(dict[str, Any], found)


def _steps(spec: dict[str, Any]) -> int | None:
    """Return the time limit, None where there is none: gymnasium writes that as None or -1."""
    steps = int(spec.get("max_episode_steps") or 0)
    return steps if steps > 0 else None


def _other_kwargs(spec: dict[str, Any], plain: registration.EnvSpec | None) -> dict[str, Any]:
    """Return the arguments that are not the registered ones, nor the class's own defaults."""
    registered_ones = {} if plain is None else plain.kwargs
    given = {
        name: value
        for name, value in (spec.get("kwargs") or {}).items()
        if name != "render_mode" and value is not None and value != _json(registered_ones.get(name))
    }
    defaults = _defaults(plain) if given and plain is not None else {}
    return {
        name: value
        for name, value in given.items()
        # A registered argument comes before the default of the class.
        if name in registered_ones or name not in defaults or value != _json(defaults[name])
    }


def _defaults(plain: registration.EnvSpec) -> dict[str, Any]:
    """Return the defaults of the arguments that make the environment, {} where it is not there."""
    try:
        entry = plain.entry_point
        creator = registration.load_env_creator(entry) if isinstance(entry, str) else entry
        parameters = inspect.signature(creator).parameters if creator is not None else {}
    except (ImportError, AttributeError, TypeError, ValueError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _json(value: Any) -> Any:
    """Return a value as it comes back from a file, tuples as lists."""
    return json.loads(json.dumps(value, default=str))
