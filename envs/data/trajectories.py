"""Trajectories: a data set of episodes in flat, contiguous arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.data.bounds import ROWS, Float32, bounds, narrowed
from envs.data.offset import Float64, first_finite, lost, poor, taken
from envs.errors import UserError
from envs.worlds.interface import Interface
from envs.worlds.spec import EnvSpec


@dataclass(frozen=True)
class Episode:
    """One episode of T steps."""

    obs: NDArray[np.floating]
    """(T + 1, O), or (T, O) without the observation after the last step."""
    action: NDArray[np.floating]
    """(T, A)"""
    reward: NDArray[np.floating]
    """(T,): reward[t] follows action[t]"""
    terminated: bool
    """True where the environment ended it, False at a time limit or a cut."""
    seed: int | None = None
    """The seed that the environment was reset with, if known."""


@dataclass(frozen=True)
class Trajectories:
    """E episodes of N steps in all, end to end: episode i is rows starts[i] to starts[i + 1] - 1.

    `obs` has the T observations of an episode in which actions were chosen. The one after its last
    step is in `final_obs`, where the source has it.

    Example:
        >>> import numpy as np
        >>> walk = Episode(np.zeros((4, 2)), np.ones((3, 1)), np.array([1.0, 2.0, 3.0]), True)
        >>> data = Trajectories.from_episodes([walk, walk], env="Walk-v0", name="demo/walk-v0")
        >>> data.num_episodes, data.num_steps, data.returns.tolist()
        (2, 6, [6.0, 6.0])
        >>> data.returns_to_go().tolist()
        [6.0, 5.0, 3.0, 6.0, 5.0, 3.0]
    """

    obs: Float32
    """(N, O)"""
    action: Float32
    """(N, A)"""
    reward: Float32
    """(N,)"""
    starts: NDArray[np.int64]
    """(E + 1,) offsets: starts[0] = 0, starts[E] = N"""
    terminated: NDArray[np.bool_]
    """(E,)"""
    env: EnvSpec
    """The environment that the data is of."""
    name: str
    """The data set's id, such as minrnn/hopper/medium-replay-v0."""
    action_low: Float32
    """(A,) the least action that the environment takes"""
    action_high: Float32
    """(A,)"""
    weights: NDArray[np.float64] | None = None
    """(E,) relative chances of the episodes, on top of the sampler's rule; None is all equal."""
    notes: tuple[str, ...] = ()
    """One line for each repair that was made when the data was loaded."""
    reference: tuple[float, float, str] | None = None
    """Returns of a random policy and of an expert that the data set itself names, and where."""
    final_obs: Float32 | None = None
    """(E, O) the observation after each episode's last step, which may be NaN or infinite; None
    where the source does not have it for every episode."""
    recorded: tuple[Interface, ...] = ()
    """The spaces that each of the data sets was recorded with, where it states them."""
    obs_offset: Float64 | None = None
    """(O,) what was taken off `obs` and `final_obs`, which float32 could not hold beside it (see
    envs.data.offset); None for nothing."""

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[Episode],
        *,
        env: EnvSpec | str,
        name: str,
        action_low: ArrayLike | None = None,
        action_high: ArrayLike | None = None,
    ) -> Trajectories:
        """Lay episodes end to end and validate them; action bounds default to -1 and 1.

        An infinite bound (or the largest float, which some spaces have instead) is replaced by the
        least or greatest action of the data, moved by 1 where that action never changes.
        `final_obs` is None unless every episode has T + 1 observations.
        Raises UserError naming the episode and what is wrong with it.
        """
        if not episodes:
            raise UserError(f"{name}: the data set has no episodes; delete it and make it again")
        lengths = [_check_shapes(e, episodes[0], i, name) for i, e in enumerate(episodes)]
        seen = [np.asarray(e.obs)[:steps] for e, steps in zip(episodes, lengths, strict=True)]
        ends = None
        if all(len(e.obs) > len(e.action) for e in episodes):
            ends = np.stack([np.asarray(e.obs)[-1] for e in episodes])

        def stored(offset: Float64) -> tuple[Float32, Float32 | None]:
            with np.errstate(over="ignore", invalid="ignore"):
                obs = np.concatenate([(part - offset).astype(np.float32) for part in seen])
                return obs, None if ends is None else (ends - offset).astype(np.float32)

        obs, final_obs = stored(np.zeros(()))
        obs_offset = None
        if (where := poor(obs)) is not None:
            first = first_finite(np.concatenate([part[:1] for part in seen]))
            obs_offset = np.where(where & np.isfinite(first), first, 0.0)
            plain, (obs, final_obs) = final_obs, stored(obs_offset)
            obs_offset = taken(obs, final_obs, obs_offset, plain)
        action = np.concatenate([e.action for e in episodes]).astype(np.float32)
        low, high = bounds(action, action_low, action_high)
        trajectories = cls(
            obs=obs,
            action=action,
            reward=np.concatenate([e.reward for e in episodes]).astype(np.float32),
            starts=np.concatenate(([0], np.cumsum(lengths))),
            terminated=np.array([bool(e.terminated) for e in episodes]),
            env=EnvSpec.of(env),
            name=name,
            action_low=low,
            action_high=high,
            final_obs=final_obs,
            obs_offset=obs_offset,
        )
        trajectories.validate()
        if action_low is None and action_high is None and np.abs(action).max() > 1.0 + 1e-6:
            raise UserError(
                f"{name}: actions reach {np.abs(action).max():.4g}, beyond -1 and 1; give the "
                "environment's bounds, action_low and action_high"
            )
        low, high, notes = narrowed(action, low, high)
        notes += [*lost("rewards", trajectories.reward[:, None]), *lost("actions", action)]
        return replace(trajectories, action_low=low, action_high=high, notes=tuple(notes))

    @property
    def env_id(self) -> str:
        """The environment's id, such as Hopper-v5."""
        return self.env.env_id

    @property
    def num_episodes(self) -> int:
        """E"""
        return len(self.starts) - 1

    @property
    def num_steps(self) -> int:
        """N, over all episodes."""
        return len(self.reward)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) steps of each episode."""
        return np.diff(self.starts)

    @property
    def returns(self) -> NDArray[np.float64]:
        """(E,) sums of rewards, added up in float64."""
        return np.add.reduceat(self.reward.astype(np.float64), self.starts[:-1])

    @property
    def obs_dim(self) -> int:
        """O"""
        return self.obs.shape[1]

    @property
    def action_dim(self) -> int:
        """A"""
        return self.action.shape[1]

    def obs_mean(self) -> Float32:
        """(O,) mean of `obs` over all steps."""
        return self._mean().astype(np.float32)

    def obs_std(self) -> Float32:
        """(O,) standard deviation of `obs` over all steps; 1 where it is of a constant.

        From 1e-4 on, 1e-6 is added, as Decision Transformer has it.
        """
        std = self._std()
        std = np.where(std < 1e-4, std, std + 1e-6)
        return np.where(self._is_constant(std), 1.0, std).astype(np.float32)

    def constant_obs(self) -> list[int]:
        """Return the dimensions of `obs` that do not vary, or by rounding alone."""
        return np.flatnonzero(self._is_constant(self._std())).tolist()

    def _std(self) -> Float64:
        mean = self._mean()
        square = sum(((block - mean) ** 2).sum(axis=0) for block in self._blocks(self.obs))
        return np.sqrt(square / self.num_steps)

    def _is_constant(self, std: Float64) -> NDArray[np.bool_]:
        largest = np.max([np.abs(block).max(axis=0) for block in self._blocks(self.obs)], axis=0)
        return std <= np.maximum(1e-6 * largest, 1e-12)

    def _mean(self) -> NDArray[np.float64]:
        total = sum(block.sum(axis=0, dtype=np.float64) for block in self._blocks(self.obs))
        return np.asarray(total / self.num_steps)

    @staticmethod
    def _blocks(values: Float32) -> Iterator[Float32]:
        """Yield blocks of rows: all at once, float64 would take twice the memory of the data."""
        return (values[row : row + ROWS] for row in range(0, len(values), ROWS))

    def returns_to_go(self) -> Float32:
        """(N,) the sum of the rewards from each step to the end of its episode, in float64."""
        total = np.cumsum(self.reward, dtype=np.float64)
        size = np.add.reduceat(np.abs(self.reward, dtype=np.float64), self.starts[:-1])
        lost = np.abs(total).max() * np.finfo(np.float64).eps
        if lost < 1e-8 * size[size > 0].min(initial=np.inf):
            to_end = np.repeat(total[self.starts[1:] - 1], self.lengths)
            return (to_end - total + self.reward).astype(np.float32)
        # Differences of sums over all episodes would leave nothing of the smallest returns.
        parts = np.split(self.reward.astype(np.float64), self.starts[1:-1])
        return np.concatenate([np.cumsum(part[::-1])[::-1] for part in parts]).astype(np.float32)

    def timesteps(self) -> NDArray[np.int64]:
        """(N,) the index of each step in its episode, from 0."""
        return np.arange(self.num_steps) - np.repeat(self.starts[:-1], self.lengths)

    def episode(self, index: int) -> Episode:
        """Return an episode, with T + 1 observations if there are final ones, else with T."""
        rows = slice(int(self.starts[index]), int(self.starts[index + 1]))
        obs = self.obs[rows]
        if self.final_obs is not None:
            obs = np.concatenate((obs, self.final_obs[[index]]))
        if self.obs_offset is not None:
            obs = obs + self.obs_offset
        return Episode(obs, self.action[rows], self.reward[rows], bool(self.terminated[index]))

    def select(self, indices: ArrayLike) -> Trajectories:
        """Return a data set with these episodes only, in this order."""
        chosen = np.atleast_1d(np.asarray(indices))
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        if not len(chosen):
            raise UserError(f"{self.name}: no episodes selected; choose at least one")
        lengths = self.lengths[chosen]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        shift = np.repeat(self.starts[:-1][chosen] - starts[:-1], lengths)
        rows = np.arange(starts[-1]) + shift
        return replace(
            self,
            obs=self.obs[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            starts=starts,
            terminated=self.terminated[chosen],
            weights=None if self.weights is None else self.weights[chosen],
            final_obs=None if self.final_obs is None else self.final_obs[chosen],
        )

    def validate(self, *, numbers: bool = True) -> None:
        """Raise UserError naming the episode and the defect, if there is one.

        numbers: whether to look for NaN and infinity, too, which reads all of the data.
        """
        name, steps = self.name, self.num_steps
        if self.num_episodes < 1:
            raise UserError(f"{name}: the data set has no episodes; delete it and make it again")
        if self.starts[0] != 0 or self.starts[-1] != steps:
            raise UserError(f"{name}: episodes cover {self.starts[-1]} steps of {steps}")
        if (empty := np.flatnonzero(self.lengths < 1)).size:
            raise UserError(f"{name}: episode {empty[0]} is empty; remove it from the data set")
        if len(self.terminated) != self.num_episodes:
            raise UserError(
                f"{name}: {len(self.terminated)} terminated flags for {self.num_episodes} episodes"
            )
        for label, values in (("obs", self.obs), ("action", self.action), ("reward", self.reward)):
            if values.ndim != (1 if label == "reward" else 2) or len(values) != steps:
                raise UserError(f"{name}: {label} has shape {values.shape} for {steps} steps")
            if values.ndim == 2 and values.shape[1] == 0:
                raise UserError(f"{name}: {label} has no numbers in it; choose another data set")
            if numbers and not all(np.isfinite(block).all() for block in self._blocks(values)):
                step = int(np.argmin(np.isfinite(values).reshape(steps, -1).all(axis=1)))
                index = int(np.searchsorted(self.starts, step, side="right")) - 1
                raise UserError(
                    f"{name}: episode {index} has NaN or infinity in {label} at step "
                    f"{step - self.starts[index]}; remove that episode from the data set"
                )
        if self.obs_offset is not None and self.obs_offset.shape != (self.obs_dim,):
            raise UserError(f"{name}: obs_offset has shape {self.obs_offset.shape}")
        size = (self.num_episodes, self.obs_dim)
        if self.final_obs is not None and self.final_obs.shape != size:
            raise UserError(f"{name}: final_obs has shape {self.final_obs.shape}, not {size}")
        if self.weights is not None and self.weights.shape != (self.num_episodes,):
            raise UserError(
                f"{name}: weights of shape {self.weights.shape} for {self.num_episodes} episodes"
            )
        low, high, size = self.action_low, self.action_high, self.action_dim
        if low.shape != (size,) or high.shape != (size,):
            raise UserError(
                f"{name}: action bounds of shapes {low.shape} and {high.shape} for actions of size "
                f"{size}; correct the data set's action space to one low and high for each"
            )
        if (bad := np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))).size:
            raise UserError(
                f"{name}: action {bad[0]} has the bounds {low[bad[0]]:g} and {high[bad[0]]:g}; "
                f"correct the data set's action space to numbers with low < high"
            )


def _check_shapes(episode: Episode, first: Episode, index: int, name: str) -> int:
    """Return the episode's length; UserError where its shapes do not fit each other or `first`."""
    obs, action, reward = (np.asarray(v) for v in (episode.obs, episode.action, episode.reward))
    where = f"{name}: episode {index}"
    for label, values, ndim in (("obs", obs, 2), ("action", action, 2), ("reward", reward, 1)):
        if values.ndim != ndim:
            raise UserError(f"{where} has {label} of shape {values.shape}, not {ndim} dimensions")
    length = len(action)
    if len(reward) != length or len(obs) not in (length, length + 1):
        raise UserError(
            f"{where} has {len(obs)} observations, {length} actions and {len(reward)} rewards; "
            f"T actions need T rewards and T or T + 1 observations"
        )
    for label, values, like in (("obs", obs, first.obs), ("action", action, first.action)):
        if values.shape[1] != np.asarray(like).shape[1]:
            raise UserError(
                f"{where} has {label} of size {values.shape[1]}, "
                f"episode 0 has {np.asarray(like).shape[1]}; a data set is of one environment"
            )
    return length
