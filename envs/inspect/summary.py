"""What is to be known of a data set, as JSON types."""

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
    """Return what is to be known of a data set, fit for JSON."""
    returns = data.returns
    try:
        sources.check_env(data)
        defect = None
    except UserError as error:
        defect = str(error)
    top = float(np.sort(returns)[-max(1, round(0.1 * len(returns))) :].mean())
    reference = references.reference(data.env, data.reference)
    no_score = "no reference returns for this environment" if reference is None else _cut(data)
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
        if reference is None or no_score
        else {
            "random": reference[0],
            "expert": reference[1],
            "source": reference[2],
            "best_score": float(references.scaled(returns.max(), *reference[:2])),
            "mean_score": float(references.scaled(returns.mean(), *reference[:2])),
            "top_tenth_score": float(references.scaled(top, *reference[:2])),
        },
        "no_score": no_score,
        "constant_observations": np.flatnonzero(np.ptp(data.obs, axis=0) == 0).tolist(),
        "repairs": list(data.notes),
        "defect": defect,
    }


def _cut(data: Trajectories) -> str | None:
    """Say why returns of the data are not those of its environment, where they are not.

    Recordings of mazes are cut at each success, where the environment goes on.
    """
    known = lookup(data.env)
    limit = time_limit(data.env) or (known.horizon if known else None)
    if limit is None:
        return None
    cut = int((~data.terminated & (data.lengths < limit)).sum())
    if 2 * cut <= data.num_episodes:
        return None
    return (
        f"{cut:,} of {data.num_episodes:,} episodes were cut before the time limit of {limit} "
        f"steps, so that their returns are not those that references are of"
    )


def _spread(values: NDArray[Any]) -> dict[str, Any]:
    found = np.quantile(values, QUANTILES).tolist()
    return {"mean": float(values.mean()), "quantiles": dict(zip(QUANTILES, found, strict=True))}
