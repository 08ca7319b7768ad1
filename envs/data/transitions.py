"""What follows each step of a data set: the reward, the next observation, a termination."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Trajectories
from envs.errors import UserError


class Transitions:
    """Gives what follows any steps of the data.

    The observation after an episode's last step is `final_obs`. An episode that terminated may lack
    it, or have NaN or infinity in it: zeros stand for it, as nothing that follows a termination
    counts. Raises UserError where an episode that a time limit or a cut ended lacks it.
    """

    def __init__(self, data: Trajectories) -> None:
        final, count = data.final_obs, data.num_episodes
        self._final_obs = np.zeros((count, data.obs_dim), np.float32) if final is None else final
        known = np.isfinite(self._final_obs).all(axis=1) & np.full(count, final is not None)
        if (missing := np.flatnonzero(~(known | data.terminated))).size:
            raise UserError(
                f"{data.name} lacks the observation after the last step of {len(missing)} of "
                f"{count} episodes (the first: {missing[0]}), which the objective needs where an "
                f"episode did not terminate; choose a Minari data set or a file with "
                f"next_observations, without NaN"
            )
        if not known.all():
            self._final_obs = np.where(known[:, None], self._final_obs, np.float32(0))
        self._starts, self._terminated = data.starts, data.terminated
        self._reward, self._obs = np.asarray(data.reward), np.asarray(data.obs)
        self._is_last = np.zeros(data.num_steps, np.bool_)
        self._is_last[data.starts[1:] - 1] = True

    def take(self, steps: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return reward (B, T), next_obs (B, T, O) and terminated (B, T) of steps (B, T)."""
        last = self._is_last.take(steps)
        episode = np.searchsorted(self._starts, steps[last], side="right") - 1
        next_obs = self._obs.take(steps + 1, axis=0, mode="clip")
        next_obs[last] = self._final_obs[episode]
        terminated = np.zeros(steps.shape, np.bool_)
        terminated[last] = self._terminated[episode]
        reward = self._reward.take(steps)
        return {"reward": reward, "next_obs": next_obs, "terminated": terminated}
