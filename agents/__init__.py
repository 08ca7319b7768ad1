"""Return-conditioned recurrent agents. For scripts: `load`; everything else may move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.acting.agent import Agent, load

__all__ = ["Agent", "load"]


def __getattr__(name: str) -> Any:
    # At first use: torch takes a second to import.
    if name not in __all__:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    from agents.acting import agent

    return getattr(agent, name)
