"""A rollout that several ranks share: each plays some of the queue, and all get all episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.machine.ranks import Ranks
from envs.rollout import Rollout


def gather(played: Rollout | None, ranks: Ranks) -> Rollout:
    """Return the rollout of the whole queue, of which rank r played the places r, r + ranks, ...

    played: None if this rank had no episodes. Only a single rank keeps recorded episodes.
    """
    if ranks.size == 1 and played is not None:
        return played
    shares = [share for share in ranks.gather(_to_json(played)) if share is not None]
    total = sum(len(share["returns"]) for share in shares)

    def merged(name: str, kind: type) -> np.ndarray:
        values = np.zeros(total, kind)
        for rank, share in enumerate(shares):
            # None: all episodes of that rank failed before the environment could report success.
            values[rank :: ranks.size] = False if share[name] is None else share[name]
        return values

    failures = {
        rank + ranks.size * place: text
        for rank, share in enumerate(shares)
        for place, text in share["failures"]
    }
    says = any(share["success"] is not None for share in shares)
    return Rollout(
        merged("returns", np.float64),
        merged("lengths", np.int64),
        merged("terminated", np.bool_),
        merged("success", np.bool_) if says else None,
        failures=dict(sorted(failures.items())),
    )


def _to_json(played: Rollout | None) -> dict[str, Any] | None:
    """Return a rollout as JSON types, which keep float64 to the bit, NaN included."""
    if played is None:
        return None
    found: dict[str, Any] = {"failures": list(played.failures.items())}
    for name in ("returns", "lengths", "terminated", "success"):
        values = getattr(played, name)
        found[name] = None if values is None else values.tolist()
    return found
