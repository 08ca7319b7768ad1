"""A rollout whose episodes several ranks share: each plays some of the queue, all get the whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.machine.ranks import Ranks
from envs.rollout import Rollout


def whole(played: Rollout | None, ranks: Ranks) -> Rollout:
    """Return the rollout of the whole queue, of which rank r played the places r, r + ranks, ...

    None where this rank had none of them. Without recorded episodes; one rank's stays as it is.
    """
    if ranks.size == 1 and played is not None:
        return played
    parts = [part for part in ranks.gather(_plain(played)) if part is not None]  # the first ones
    total = sum(len(part["returns"]) for part in parts)

    def joined(name: str, kind: type) -> np.ndarray:
        values = np.zeros(total, kind)
        for rank, part in enumerate(parts):
            # None: all episodes of that rank failed before their environment could say.
            values[rank :: ranks.size] = False if part[name] is None else part[name]
        return values

    failures = {
        rank + ranks.size * place: text
        for rank, part in enumerate(parts)
        for place, text in part["failures"]
    }
    says = any(part["success"] is not None for part in parts)
    return Rollout(
        joined("returns", np.float64),
        joined("lengths", np.int64),
        joined("terminated", np.bool_),
        joined("success", np.bool_) if says else None,
        failures=dict(sorted(failures.items())),
    )


def _plain(played: Rollout | None) -> dict[str, Any] | None:
    # Fit for JSON, which keeps float64 to the bit, NaN included.
    if played is None:
        return None
    return {
        "returns": played.returns.tolist(),
        "lengths": played.lengths.tolist(),
        "terminated": played.terminated.tolist(),
        "success": None if played.success is None else played.success.tolist(),
        "failures": list(played.failures.items()),
    }
