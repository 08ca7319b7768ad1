"""What follows each step of a data set: the reward, the next observation, a termination."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data.trajectories import Trajectories
from envs.errors import UserError

_COMPARED = 10_000  # steps that are looked at for repeated observations


class Transitions:
    """Gives what follows any steps of the data.

    The observation after an episode's last step is `final_obs`. An episode that terminated may lack
    it, or have NaN or infinity in it: zeros stand for it, as nothing that follows a termination
    counts. Raises UserError where an episode that a time limit or a cut ended lacks it, and where
    it only repeats the observation before it at the ends of all of these episodes.
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
        self._starts, self._terminated = data.starts, data.terminated
        self._reward, self._obs = np.asarray(data.reward), np.asarray(data.obs)
        if self._final_repeats():
            raise UserError(
                f"{data.name} repeats the last observation of each episode as the one after its "
                f"last step, which the objective needs as it was; choose a data set that has it"
            )
        if not known.all():
            self._final_obs = np.where(known[:, None], self._final_obs, np.float32(0))
        self._is_last = np.zeros(data.num_steps, np.bool_)
        self._is_last[data.starts[1:] - 1] = True

    def _final_repeats(self) -> bool:
        # At the ends of all episodes that did not terminate, and hardly ever within them.
        ends = self._starts[1:][~self._terminated] - 1
        if len(ends) < 2 or (self._final_obs[~self._terminated] != self._obs[ends]).any():
            return False
        inside = np.setdiff1d(np.arange(min(len(self._obs) - 1, _COMPARED)), self._starts[1:] - 1)
        same = (self._obs[inside] == self._obs[inside + 1]).all(axis=1)
        return len(same) > 0 and same.mean() < 0.1

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
