"""The unbiased episode queue: every queued episode is run once and counts, for any K."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.make import EnvLike, make_env
from envs.trajectories import Episode, Trajectories

Progress = Callable[[int, int], object]
"""Called with (episodes done, episodes in all)."""


class Actor(Protocol):
    """What acts in K environments at once.

    An actor that holds state for each row may have a method `keep(rows)`, rows (M,) i64: it is
    called when the queue has run dry and some rows have finished, with the places of the rows that
    live on; the next call then has M rows, in that order.
    """

    def __call__(
        self,
        obs: NDArray[np.float64],
        reward: NDArray[np.float64],
        resets: NDArray[np.bool_],
        episode: NDArray[np.int64],
    ) -> NDArray[np.floating]:
        """Return the actions (K, A).

        obs: (K, O). reward: (K,) of the step before, 0 where resets. resets: (K,) True where a new
        episode starts now. episode: (K,) the row's place in the queue.
        """
        ...


@dataclass(frozen=True)
class Rollout:
    """The results, indexed by the place in the queue: entry i was reset with seeds[i]."""

    returns: NDArray[np.float64]
    """(E,) sums of rewards"""
    lengths: NDArray[np.int64]
    """(E,)"""
    terminated: NDArray[np.bool_]
    """(E,) False where the time limit ended the episode"""
    success: NDArray[np.bool_] | None = None
    """(E,) True where info["success"] (or "is_success") was true after any step of the episode;
    None where the environment reports neither."""
    episodes: tuple[Episode, ...] | None = None
    """With record=True: every step, T + 1 observations each."""
    env_id: str = ""
    action_low: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    action_high: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    obs_keys: tuple[str, ...] = ()
    env_kwargs: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def trajectories(self) -> Trajectories | None:
        """The recorded episodes as Trajectories, or None without record=True."""
        if self.episodes is None:
            return None
        trajectories = Trajectories.from_episodes(
            self.episodes,
            env_id=self.env_id,
            name=f"rollout of {self.env_id}",
            action_low=self.action_low,
            action_high=self.action_high,
        )
        return replace(trajectories, obs_keys=self.obs_keys, env_kwargs=self.env_kwargs)


@dataclass
class _Row:
    """One environment and the episode that it is in."""

    env: gym.Env[Any, Any]
    index: int = -1
    total: float = 0.0
    success: bool | None = None
    obs: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    actions: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    rewards: list[float] = field(default_factory=list[float])


def rollout(
    env: EnvLike,
    actor: Actor,
    seeds: Sequence[int],
    *,
    obs_keys: Sequence[str] = (),
    env_kwargs: Mapping[str, Any] | None = None,
    num_envs: int = 16,
    record: bool = False,
    progress: Progress | None = None,
) -> Rollout:
    """Run every queued episode once, K = num_envs at a time, and return all of their results.

    obs_keys, env_kwargs: as make_env has them.
    Episode i starts with env.reset(seed=seeds[i]). Each environment takes the next episode of the
    queue when its own ends; when the queue is dry the rows shrink. Nothing is left out and nothing
    is cut, so the results have no bias towards short episodes, and an actor whose rows do not
    influence each other gives the same results for any K.
    progress(done, total) is called after each episode. Environments are closed at the end, and on
    errors. Raises UserError where the actor returns an action that is not finite.

    Example:
        >>> import numpy as np
        >>> def still(obs, reward, resets, episode):
        ...     return np.zeros((len(obs), 1))
        >>> result = rollout("Pendulum-v1", still, seeds=range(5), num_envs=2)
        >>> result.lengths.tolist(), result.terminated.any().item()
        ([200, 200, 200, 200, 200], False)
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or num_envs < 1:
        raise UserError(f"{len(seeds)} episodes over {num_envs} environments; both need 1 or more")
    rows: list[_Row] = []
    try:
        for _ in range(min(num_envs, len(seeds))):
            rows.append(_Row(make_env(env, obs_keys=obs_keys, env_kwargs=env_kwargs)))
        result = _run(env, actor, seeds, rows, record, progress)
        return replace(result, obs_keys=tuple(obs_keys), env_kwargs=dict(env_kwargs or {}))
    finally:
        for row in rows:
            row.env.close()


def _run(
    env: EnvLike,
    actor: Actor,
    seeds: list[int],
    rows: list[_Row],
    record: bool,
    progress: Progress | None,
) -> Rollout:
    total = len(seeds)
    returns, lengths = np.zeros(total), np.zeros(total, np.int64)
    terminated = np.zeros(total, np.bool_)
    success: list[bool | None] = [None] * total
    episodes: list[Episode | None] = [None] * total
    space, spec = rows[0].env.action_space, rows[0].env.spec
    action_dim = space.shape[0] if isinstance(space, gym.spaces.Box) else -1
    alive = list(rows)
    obs = [_begin(row, i, seeds[i], record) for i, row in enumerate(alive)]
    reward, resets = np.zeros(len(alive)), np.ones(len(alive), np.bool_)
    queued, done = len(alive), 0
    while alive:
        index = np.array([row.index for row in alive])
        # A fresh array at every step: an actor may keep what it was given.
        actions = np.asarray(actor(np.array(obs, np.float64), reward, resets, index))
        _check_actions(actions, (len(alive), action_dim), index, lengths, seeds)
        reward, resets = np.zeros(len(alive)), np.zeros(len(alive), np.bool_)
        keep: list[int] = []
        for k, row in enumerate(alive):
            obs[k], gain, ended, cut, info = row.env.step(actions[k])
            i = row.index
            row.total += float(gain)
            reached = info.get("success", info.get("is_success"))
            if reached is not None:
                row.success = bool(row.success or reached)
            reward[k] = gain
            lengths[i] += 1
            if record:
                row.obs.append(np.array(obs[k]))
                row.actions.append(np.array(actions[k]))
                row.rewards.append(float(gain))
            if not (ended or cut):
                keep.append(k)
                continue
            returns[i], terminated[i], success[i] = row.total, ended, row.success
            if record:
                episodes[i] = _episode(row, bool(ended), seeds[i])
            done += 1
            if progress is not None:
                progress(done, total)
            if queued < total:
                obs[k] = _begin(row, queued, seeds[queued], record)
                reward[k], resets[k] = 0.0, True
                queued += 1
                keep.append(k)
        if len(keep) < len(alive):
            alive, obs = [alive[k] for k in keep], [obs[k] for k in keep]
            reward, resets = reward[keep], resets[keep]
            hook = getattr(actor, "keep", None)
            if hook is not None and alive:
                hook(np.array(keep))
    return Rollout(
        returns,
        lengths,
        terminated,
        np.array([bool(s) for s in success]) if any(s is not None for s in success) else None,
        tuple(e for e in episodes if e is not None) if record else None,
        env if isinstance(env, str) else (spec.id if spec is not None else ""),
        np.asarray(getattr(space, "low", ()), np.float32),
        np.asarray(getattr(space, "high", ()), np.float32),
    )


def _begin(row: _Row, index: int, seed: int, record: bool) -> NDArray[Any]:
    row.index, row.total, row.success = index, 0.0, None
    obs, _ = row.env.reset(seed=seed)
    if record:
        row.obs, row.actions, row.rewards = [np.array(obs)], [], []
    return obs


def _episode(row: _Row, terminated: bool, seed: int) -> Episode:
    return Episode(
        np.stack(row.obs), np.stack(row.actions), np.array(row.rewards), terminated, seed
    )


def _check_actions(
    actions: NDArray[Any],
    shape: tuple[int, int],
    index: NDArray[np.int64],
    lengths: NDArray[np.int64],
    seeds: list[int],
) -> None:
    if actions.ndim != 2 or len(actions) != shape[0] or (shape[1] >= 0 and actions.shape != shape):
        raise UserError(f"the actor returned actions of shape {actions.shape}, not {shape}")
    if not np.isfinite(actions).all():
        i = int(index[np.flatnonzero(~np.isfinite(actions).all(axis=1))[0]])
        raise UserError(
            f"episode {i} (seed {seeds[i]}), step {lengths[i]}: the actor's action is not finite; "
            f"its training has diverged, try a lower learning rate or an earlier checkpoint"
        )
