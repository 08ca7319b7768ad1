"""What a data set says about its environment, against what gymnasium makes of the id alone."""

from __future__ import annotations

import inspect
import json
import warnings
from typing import Any, cast

from gymnasium.envs.registration import EnvSpec, load_env_creator

from envs.make import registered


def table(text: str | None, name: str) -> dict[str, Any]:
    """Return the JSON object in a field of the metadata, {} where there is none.

    Raises ValueError or TypeError where it is something else.
    """
    found = json.loads(text or "{}")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no table")
    return cast(dict[str, Any], found)


def check_plain(spec: dict[str, Any], dataset_id: str) -> None:
    """Warn where a stored env_spec differs from the registered one, naming the differences."""
    env_id = str(spec.get("id", ""))
    plain = registered(env_id)
    if plain is not None and (found := _differences(spec, plain)):
        warnings.warn(
            f"{dataset_id} was recorded in {env_id} with {', '.join(found)}; "
            f"evaluation uses the plain {env_id}, where the same returns may mean something else",
            UserWarning,
            stacklevel=3,
        )


def _differences(spec: dict[str, Any], plain: EnvSpec) -> list[str]:
    """Return "name=value" of each argument that is not the registered one; None is the default."""
    given = {
        name: value
        for name, value in (spec.get("kwargs") or {}).items()
        if name != "render_mode" and value is not None and value != _json(plain.kwargs.get(name))
    }
    defaults = _defaults(plain) if given else {}
    found = [
        f"{name}={value!r}"
        for name, value in given.items()
        # A registered argument comes before the default of the class.
        if name in plain.kwargs or name not in defaults or value != _json(defaults[name])
    ]
    steps = spec.get("max_episode_steps")
    if steps not in (None, plain.max_episode_steps):
        found.append(f"max_episode_steps={steps!r} (plain: {plain.max_episode_steps})")
    stored = spec.get("additional_wrappers") or []
    wrappers = [(str(wrapper["name"]), wrapper.get("kwargs") or {}) for wrapper in stored]
    if wrappers and wrappers != [
        (w.name, _json(w.kwargs) or {}) for w in plain.additional_wrappers
    ]:
        found.append(f"the wrappers {', '.join(name for name, _ in wrappers)}")
    return found


def _defaults(plain: EnvSpec) -> dict[str, Any]:
    """Return the defaults of the arguments that make the environment, {} where it is not there."""
    try:
        entry = plain.entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        parameters = inspect.signature(creator).parameters if creator is not None else {}
    except (ImportError, AttributeError, TypeError, ValueError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _json(value: Any) -> Any:
    """Return a value as it comes back from a file, tuples as lists."""
    return json.loads(json.dumps(value, default=str))
