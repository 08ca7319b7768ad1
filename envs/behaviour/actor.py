"""A behaviour policy as the actor of a rollout, with noise that depends on the episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.behaviour.policy import Float32, Policy


class PolicyActor:
    """Run a policy in `rollout`, with noise that depends on the episode's own seed alone.

    noise: its scale; 0 acts by the policy's mode.
    """

    def __init__(
        self, policy: Policy, seeds: Sequence[int], *, noise: float = 1.0, block: int = 256
    ) -> None:
        self.policy, self._scale = policy, np.float32(noise)
        self._seeds, self._block = [int(seed) for seed in seeds], block
        self._rngs: list[np.random.Generator | None] = []
        self._noise: Float32 = np.zeros((0, block, policy.sizes[1]), np.float32)
        self._used: NDArray[np.int64] = np.zeros(0, np.int64)

    def __call__(
        self,
        obs: NDArray[np.float64],
        reward: NDArray[np.float64],
        resets: NDArray[np.bool_],
        episode: NDArray[np.int64],
    ) -> Float32:
        """See envs.rollout.loop.Actor."""
        if not self._rngs:
            self._rngs = [None] * len(obs)
            self._noise = np.zeros((len(obs), *self._noise.shape[1:]), np.float32)
            self._used = np.zeros(len(obs), np.int64)
        for row in np.flatnonzero(resets):
            self._rngs[row] = np.random.default_rng(self._seeds[episode[row]])
        for row in np.flatnonzero(resets | (self._used == self._block)):
            rng = self._rngs[row]
            assert rng is not None  # a row's first call has resets = True
            self._noise[row] = rng.standard_normal(self._noise.shape[1:], np.float32)
            self._used[row] = 0
        noise = self._noise[np.arange(len(obs)), self._used]
        self._used += 1
        return self.policy.act(obs, noise * self._scale)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Keep these rows; the episodes of the others have ended."""
        if self._rngs:
            self._rngs = [self._rngs[row] for row in rows]
            self._noise, self._used = self._noise[rows], self._used[rows]
