"""A summary of a data set, as JSON types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import sources
from envs.data.trajectories import Trajectories
from envs.errors import UserError
from envs.scoring import references
from envs.worlds.catalog import lookup
from envs.worlds.make import time_limit

QUANTILES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def describe(data: Trajectories) -> dict[str, Any]:
    """Return a summary of a data set, fit for JSON."""
    returns = data.returns
    try:
        notes, defect = sources.check_env(data), None
    except UserError as error:
        notes, defect = (), str(error)
    top = float(np.sort(returns)[-max(1, round(0.1 * len(returns))) :].mean())
    found = references.reference(data.env, data.reference)
    low, high, source = found or (0.0, 1.0, "")
    no_score = "no reference returns for this environment" if found is None else _cut(data)
    return {
        "name": data.name,
        **data.env.to_json(),
        "episodes": data.num_episodes,
        "steps": data.num_steps,
        "lengths": _spread(data.lengths),
        "returns": _spread(returns),
        "top_tenth_return": top,
        "terminated": int(data.terminated.sum()),
        "observations": data.obs_dim,
        "actions": data.action_dim,
        "action_low": data.action_low.tolist(),
        "action_high": data.action_high.tolist(),
        "bytes": data.obs.nbytes + data.action.nbytes + data.reward.nbytes,
        "reference": None
        if no_score
        else {
            "random": low,
            "expert": high,
            "source": source,
            "best_score": float(references.scaled(returns.max(), low, high)),
            "mean_score": float(references.scaled(returns.mean(), low, high)),
            "top_tenth_score": float(references.scaled(top, low, high)),
        },
        "no_score": no_score,
        "constant_observations": data.constant_obs(),
        "obs_offset": None if data.obs_offset is None else data.obs_offset.tolist(),
        "repairs": [*data.notes, *notes],
        "defect": defect,
    }


def _cut(data: Trajectories) -> str | None:
    """Return why the data's returns do not compare with its environment's; None where they do."""
    # Recordings of mazes are cut at each success, where the environment continues.
    known = lookup(data.env)
    limit = time_limit(data.env) or (known.horizon if known else None)
    if limit is None:
        return None
    cut = int((~data.terminated & (data.lengths < limit)).sum())
    if 2 * cut <= data.num_episodes:
        return None
    return (
        f"{cut:,} of {data.num_episodes:,} episodes were cut before the time limit of {limit} "
        f"steps, so their returns do not compare with the reference returns"
    )


def _spread(values: NDArray[Any]) -> dict[str, Any]:
    found = np.quantile(values, QUANTILES).tolist()
    return {"mean": float(values.mean()), "quantiles": dict(zip(QUANTILES, found, strict=True))}
