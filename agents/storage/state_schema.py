"""Check what `state.json` says of a run: what is impossible is damage, and not gone on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from agents.loggers.runlog import checked
from agents.storage.metadata import fits


def check_state(facts: Mapping[str, Any]) -> None:
    """Raise LookupError, TypeError or ValueError where a fact is missing or cannot be.

    `update` and `sampler` are for those to check whose they are (agents.storage.training_state,
    envs.data.sampler).
    """
    checked(facts["log"])
    for name, right in _RIGHT.items():
        if not right(facts):
            raise ValueError(f"an impossible {name}")
    for name, kinds in _PARTS.items():
        if not isinstance(facts[name], dict) or facts[name].keys() != kinds.keys():
            raise ValueError(f"an impossible {name}")
        for part, kind in kinds.items():
            if not fits(facts[name][part], kind):
                raise ValueError(f"an impossible {part} of {name}")


def _is_update(value: Any, last: Any) -> bool:
    return fits(value, int) and 0 <= value <= last


def _is_score(facts: Mapping[str, Any]) -> bool:
    score = facts["best_score"]
    if (score is None) != (facts["best_update"] == 0):
        return False
    # Minus infinity: the best evaluation so far is one in which too many episodes failed.
    return fits(score, float | None) or score == -math.inf


_RIGHT: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "evaluated": lambda facts: _is_update(facts["evaluated"], facts["update"]),
    "best_update": lambda facts: _is_update(facts["best_update"], facts["evaluated"]),
    "best_score": _is_score,
}
_PARTS: dict[str, dict[str, Any]] = {
    "data": {"episodes": int, "steps": int, "sha256": str},
    "machine": {"torch": str, "device": str, "threads": int, "ranks": int},
}
