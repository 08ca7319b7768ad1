"""Check what `agent.json` says of a checkpoint: it comes from anywhere, and is acted on."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, Literal

from agents.storage.tensor_file import Damaged
from configs import ModelConfig

FACTS = {"format", "model", "env_id", "data", "targets", "update", "window"}
"""What `agent.json` holds: the model's configuration, and all that evaluate.py needs to know."""
LATER_FACTS: dict[str, Any] = {"env_kwargs": {}, "obs_keys": [], "reference": None}
"""What checkpoints of old do not hold, and what it was for them."""
MAX_WINDOW = 100_000
"""Steps; a window is memory for each environment."""
MAX_TEXT = 2000
"""Letters; an unknown name is compared with those there are, which takes their square."""
_MAX_INT = 2**31


def check_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts, LATER_FACTS filled in. Raises Damaged where one is not what it should be."""
    if missing := FACTS - facts.keys():
        raise Damaged(f"agent.json lacks {', '.join(sorted(missing))}")
    facts = LATER_FACTS | facts
    for name, right in _KINDS.items():
        if not right(facts[name]):
            raise Damaged(f"agent.json has an impossible {name}")
    return facts


def check_model(model: Any) -> ModelConfig:
    """Return the configuration of a model. Raises Damaged where a value is not of its type."""
    if not isinstance(model, dict):
        raise Damaged("agent.json has no model")
    hints = typing.get_type_hints(ModelConfig)
    for name, value in model.items():
        if name not in hints:
            raise Damaged(f"agent.json: models have no {name!r}")
        if not fits(value, hints[name]):
            raise Damaged(f"agent.json: the model's {name} is not {_name(hints[name])}")
    try:
        return ModelConfig(**model)
    except ValueError as error:
        raise Damaged(f"agent.json: {error}") from None


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type, by its annotation; numbers have to be of sane size.

    Example:
        >>> fits(1, float), fits(True, int), fits(float("inf"), float), fits(None, float | None)
        (True, False, False, True)
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(fits(v, arguments[1]) for v in value.values())
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e30  # not NaN, nor what overflows
    if kind is int:
        return type(value) is int and abs(value) < _MAX_INT
    if kind is str:
        return isinstance(value, str) and len(value) <= MAX_TEXT
    return type(value) is kind


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _is_reference(value: Any) -> bool:
    # Returns of a random and of an expert policy, and where they come from.
    if value is None:
        return True
    return fits(value, list[float | str]) and [isinstance(v, str) for v in value] == [0, 0, 1]


_KINDS: dict[str, Callable[[Any], bool]] = {
    "env_id": lambda value: isinstance(value, str) and 0 < len(value) < 1000,
    "data": lambda value: isinstance(value, str),
    "targets": lambda value: fits(value, list[float]),
    "update": lambda value: fits(value, int) and value >= 0,
    "window": lambda value: value is None or (fits(value, int) and 1 <= value <= MAX_WINDOW),
    "env_kwargs": lambda value: isinstance(value, dict),
    "obs_keys": lambda value: fits(value, list[str]),
    "reference": _is_reference,
}
