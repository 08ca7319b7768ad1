"""The fingerprint of a data set: a resumed run needs the data that it began with."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from envs.data.bounds import ROWS
from envs.data.trajectories import Trajectories


def fingerprint(data: Trajectories) -> dict[str, Any]:
    """Return the numbers of episodes and steps, and a SHA-256 of the arrays of `data`.

    `final_obs` is not part of it, so that runs from before there was one can be resumed.
    """
    digest = hashlib.sha256()
    names = ("starts", "obs", "action", "reward", "terminated", "action_low", "action_high")
    for name in (*names, "weights", "obs_offset"):
        values = getattr(data, name)
        if values is None:
            continue
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        for row in range(0, len(values), ROWS):  # in one piece, a memory map would be read whole
            digest.update(np.ascontiguousarray(values[row : row + ROWS]).data)
    return {"episodes": data.num_episodes, "steps": data.num_steps, "sha256": digest.hexdigest()}
