"""The unbiased episode queue: every queued episode is run once and counts, for any K."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.direct import Direct, direct
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
class Played:
    """What came of one episode."""

    index: int
    """Its place in the queue."""
    total: float = 0.0
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    episode: Episode | None = None


@dataclass(frozen=True)
class World:
    """What is played, and how: all that a process has to know, beside the actor."""

    env: EnvLike
    seeds: list[int]
    obs_keys: tuple[str, ...]
    env_kwargs: dict[str, Any]
    record: bool


@dataclass(slots=True)
class _Row:
    """One environment and the episode that it is in."""

    env: gym.Env[Any, Any] | Direct
    index: int = -1
    total: float = 0.0
    length: int = 0
    success: bool | None = None
    obs: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    actions: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    rewards: list[float] = field(default_factory=list[float])

    def begin(self, index: int, seed: int, record: bool) -> NDArray[Any]:
        """Start an episode, and return its first observation."""
        self.index, self.total, self.length, self.success = index, 0.0, 0, None
        obs, _ = self.env.reset(seed=seed)
        if record:
            self.obs, self.actions, self.rewards = [np.array(obs)], [], []
        return obs

    def end(self, terminated: bool, seed: int, record: bool) -> Played:
        """Return what came of the episode."""
        played = Played(self.index, self.total, self.length, terminated, self.success)
        if record:
            steps = np.stack(self.obs), np.stack(self.actions), np.array(self.rewards)
            played.episode = Episode(*steps, terminated, seed)
        return played


def rollout(
    env: EnvLike,
    actor: Actor,
    seeds: Sequence[int],
    *,
    obs_keys: Sequence[str] = (),
    env_kwargs: Mapping[str, Any] | None = None,
    num_envs: int = 16,
    num_procs: int = 1,
    record: bool = False,
    progress: Progress | None = None,
) -> Rollout:
    """Run every queued episode once, K = num_envs at a time, and return all of their results.

    obs_keys, env_kwargs: as make_env has them.
    Episode i starts with env.reset(seed=seeds[i]). Each environment takes the next episode of the
    queue when its own ends; when the queue is dry the rows shrink. Nothing is left out and nothing
    is cut, so the results have no bias towards short episodes, and an actor whose rows do not
    influence each other gives the same results for any K.
    num_procs: processes that share environments and queue, this one among them (envs.processes);
    the actor is pickled for the others. They start within seconds, so that it pays for long ones.
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
    if not seeds or min(num_envs, num_procs) < 1:
        raise UserError(
            f"{len(seeds)} episodes over {num_envs} environments in {num_procs} processes; "
            f"all need 1 or more"
        )
    world = World(env, seeds, tuple(obs_keys), dict(env_kwargs or {}), record)
    played: list[Played | None] = [None] * len(seeds)
    count = itertools.count(1)

    def finished(episode: Played) -> None:
        played[episode.index] = episode
        done = next(count)
        if progress is not None:
            progress(done, len(seeds))

    num_envs = min(num_envs, len(seeds))
    num_procs = min(num_procs, num_envs)
    if num_procs == 1:
        queue = iter(range(len(seeds)))
        facts = play(world, actor, num_envs, lambda: next(queue, None), finished)
    else:
        from envs.processes import spread

        facts = spread(world, actor, num_envs, num_procs, finished)
    return replace(_collect(played), **facts)


def play(
    world: World,
    actor: Actor,
    num_envs: int,
    take: Callable[[], int | None],
    finished: Callable[[Played], None],
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Play episodes of a queue until it is dry; return what a Rollout has to know of their world.

    take() returns the place in the queue of the next episode, None when it is dry. finished is
    called after each episode, pause between steps.
    """
    rows: list[_Row] = []
    try:
        for _ in range(num_envs):
            made = make_env(world.env, obs_keys=world.obs_keys, env_kwargs=world.env_kwargs)
            rows.append(_Row(direct(made)))
        _play(world, actor, rows, take, finished, pause)
        return _facts(world, rows[0].env)
    finally:
        for row in rows:
            row.env.close()


def _play(
    world: World,
    actor: Actor,
    rows: list[_Row],
    take: Callable[[], int | None],
    finished: Callable[[Played], None],
    pause: Callable[[], None] | None,
) -> None:
    seeds, record = world.seeds, world.record
    space = rows[0].env.action_space
    action_dim = space.shape[0] if isinstance(space, gym.spaces.Box) else -1
    alive: list[_Row] = []
    obs: list[NDArray[Any]] = []
    for row in rows:
        i = take()
        if i is None:
            break
        obs.append(row.begin(i, seeds[i], record))
        alive.append(row)
    reward, resets = np.zeros(len(alive)), np.ones(len(alive), np.bool_)
    index = np.array([row.index for row in alive])
    while alive:
        # Fresh arrays at every step: an actor may keep what it was given.
        actions = np.asarray(actor(np.array(obs, np.float64), reward, resets, index))
        _check_actions(actions, (len(alive), action_dim), alive, seeds)
        gains = [0.0] * len(alive)
        resets = np.zeros(len(alive), np.bool_)
        ended: list[int] = []
        for k, row in enumerate(alive):
            obs[k], gain, terminated, cut, info = row.env.step(actions[k])
            gains[k] = gain = float(gain)
            row.total += gain
            row.length += 1
            if info:
                reached = info.get("success", info.get("is_success"))
                if reached is not None:
                    row.success = bool(row.success or reached)
            if record:
                row.obs.append(np.array(obs[k]))
                row.actions.append(np.array(actions[k]))
                row.rewards.append(gain)
            if terminated or cut:
                finished(row.end(bool(terminated), seeds[row.index], record))
                i = take()
                if i is None:
                    ended.append(k)
                else:
                    obs[k], gains[k], resets[k] = row.begin(i, seeds[i], record), 0.0, True
        reward = np.array(gains)
        if ended:
            keep = [k for k in range(len(alive)) if k not in ended]
            alive, obs = [alive[k] for k in keep], [obs[k] for k in keep]
            reward, resets = reward[keep], resets[keep]
            hook = getattr(actor, "keep", None)
            if hook is not None and alive:
                hook(np.array(keep))
        if ended or resets.any():
            index = np.array([row.index for row in alive])
        if pause is not None:
            pause()


def _facts(world: World, env: gym.Env[Any, Any] | Direct) -> dict[str, Any]:
    name, spec, space = world.env, env.spec, env.action_space
    return {
        "env_id": name if isinstance(name, str) else (spec.id if spec is not None else ""),
        "action_low": np.asarray(getattr(space, "low", ()), np.float32),
        "action_high": np.asarray(getattr(space, "high", ()), np.float32),
        "obs_keys": world.obs_keys,
        "env_kwargs": world.env_kwargs,
    }


def _collect(queue: list[Played | None]) -> Rollout:
    played = [p for p in queue if p is not None]
    assert len(played) == len(queue), "episodes were lost"  # all behind them would move up
    successes = [p.success for p in played]
    episodes = tuple(p.episode for p in played if p.episode is not None)
    return Rollout(
        np.array([p.total for p in played]),
        np.array([p.length for p in played], np.int64),
        np.array([p.terminated for p in played], np.bool_),
        np.array([bool(s) for s in successes]) if any(s is not None for s in successes) else None,
        episodes or None,
    )


def _check_actions(
    actions: NDArray[Any], shape: tuple[int, int], alive: list[_Row], seeds: list[int]
) -> None:
    if actions.ndim != 2 or len(actions) != shape[0] or (shape[1] >= 0 and actions.shape != shape):
        raise UserError(f"the actor returned actions of shape {actions.shape}, not {shape}")
    if not np.isfinite(actions).all():
        row = alive[np.flatnonzero(~np.isfinite(actions).all(axis=1))[0]]
        raise not_finite(row.index, seeds[row.index], row.length)


def not_finite(index: int, seed: int, step: int) -> UserError:
    """Return the error for an action that is no number: which episode of the queue, which step."""
    return UserError(
        f"episode {index} (seed {seed}), step {step}: the actor's action is not finite; its "
        f"training has diverged, try a lower learning rate or an earlier checkpoint"
    )
