"""Play the episodes of a queue, each once, in the rows of a batch; one that fails ends alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.direct import Direct, direct
from envs.errors import UserError, one_line
from envs.make import EnvLike, make_env
from envs.trajectories import Episode


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


@dataclass
class Played:
    """What came of one episode."""

    index: int
    """Its place in the queue."""
    total: float = 0.0
    """Sum of the rewards; NaN where it failed."""
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    episode: Episode | None = None
    failure: str | None = None
    """In one line, where its environment raised an error or gave what is no finite number."""


@dataclass(frozen=True)
class World:
    """What is played, and how: all that a process has to know, beside the actor."""

    env: EnvLike
    seeds: list[int]
    obs_keys: tuple[str, ...]
    env_kwargs: dict[str, Any]
    record: bool
    forgiving: bool = False
    """An environment that fails costs its episode; otherwise its error is raised."""

    def make(self) -> gym.Env[Any, Any] | Direct:
        """Make an environment."""
        return direct(make_env(self.env, obs_keys=self.obs_keys, env_kwargs=self.env_kwargs))


class Unsound(Exception):
    """What an environment gave is not what it has to be."""


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


class _Table:
    """The rows that play, and the queue that they take their episodes from."""

    def __init__(
        self,
        world: World,
        rows: list[_Row],
        take: Callable[[], int | None],
        finished: Callable[[Played], None],
    ) -> None:
        self.world, self._take, self._finished = world, take, finished
        self.rows = rows
        self.obs: list[Any] = [None] * len(rows)
        self.gains, self.resets = [0.0] * len(rows), [False] * len(rows)
        self._shape: tuple[int, ...] | None = None
        self._over: list[int] = []
        for k in range(len(rows)):
            self.begin(k)

    def begin(self, k: int) -> None:
        """Start the next episode of the queue in row k, or note that there is none."""
        row, world = self.rows[k], self.world
        while (i := self._take()) is not None:
            try:
                self.obs[k] = row.begin(i, world.seeds[i], world.record)
                self._check(k)
            except UserError:
                raise
            except Exception as error:
                self.fail(k, error)
                continue
            self.gains[k], self.resets[k] = 0.0, True
            return
        self._over.append(k)

    def end(self, k: int, terminated: bool) -> None:
        """Tell of the episode of row k, which is over."""
        row = self.rows[k]
        try:
            self._check(k)
        except Unsound as error:
            self.fail(k, error)
            return
        self._finished(row.end(terminated, self.world.seeds[row.index], self.world.record))

    def fail(self, k: int, error: Exception) -> None:
        """Tell of the episode of row k, which `error` has ended, and take a new environment."""
        row = self.rows[k]
        seed = self.world.seeds[row.index]
        if not self.world.forgiving:
            if not isinstance(error, Unsound):
                raise error
            raise UserError(
                f"episode {row.index} (seed {seed}), step {row.length}: {error}; leave that seed "
                f"out, or mend the environment"
            )
        lines = str(error).strip().splitlines()
        what = type(error).__name__ + (f": {lines[0]}" if lines else "")
        failure = one_line(f"seed {seed}, step {row.length}: {what}")
        self._finished(Played(row.index, math.nan, row.length, failure=failure))
        with contextlib.suppress(Exception):
            row.env.close()
        row.env = self.world.make()

    def settle(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Return the observations (K, O) of the rows that play on, and their places if not all."""
        while True:
            live = list(range(len(self.rows)))
            if self._over:
                live = [k for k in live if k not in self._over]
            obs = self._stack([self.obs[k] for k in live] if self._over else self.obs)
            if obs is not None:
                break
            for k in live:
                try:
                    self._check(k)
                except Unsound as error:
                    self.fail(k, error)
                    self.begin(k)
        if not self._over:
            return obs, None
        self._over = []
        self.rows, self.obs = [self.rows[k] for k in live], [self.obs[k] for k in live]
        self.gains = [self.gains[k] for k in live]
        self.resets = [self.resets[k] for k in live]
        return obs, np.array(live, np.int64)

    def _stack(self, obs: list[Any]) -> NDArray[np.float64] | None:
        # Of all rows at once, as it is done at every step; None where one is not sound.
        try:
            stacked = np.array(obs, np.float64)
        except (TypeError, ValueError):
            return None
        if obs and (stacked.shape[1:] != self._shape or not np.isfinite(stacked).all()):
            return None
        return stacked

    def _check(self, k: int) -> None:
        try:
            obs = np.array(self.obs[k], np.float64)
        except (TypeError, ValueError):
            raise Unsound("the environment's observation is no array of numbers") from None
        self._shape = obs.shape if self._shape is None else self._shape
        if obs.shape != self._shape:
            raise Unsound(f"the environment's observation is {obs.shape}, not {self._shape}")
        if not np.isfinite(obs).all():
            raise Unsound("the environment's observation is not finite")


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
            rows.append(_Row(world.make()))
        _play(_Table(world, rows, take, finished), actor, pause)
        return _facts(world, rows[0].env)
    finally:
        for row in rows:
            with contextlib.suppress(Exception) if world.forgiving else contextlib.nullcontext():
                row.env.close()


def _play(table: _Table, actor: Actor, pause: Callable[[], None] | None) -> None:
    world, record = table.world, table.world.record
    space = table.rows[0].env.action_space
    action_dim = space.shape[0] if isinstance(space, gym.spaces.Box) else -1
    obs, _ = table.settle()
    index = np.array([row.index for row in table.rows])
    while table.rows:
        rows, seen = table.rows, table.obs
        # Fresh arrays at every step: an actor may keep what it was given.
        reward, resets = np.array(table.gains), np.array(table.resets, np.bool_)
        if resets.any():
            index = np.array([row.index for row in rows])
        actions = np.asarray(actor(obs, reward, resets, index))
        _check_actions(actions, (len(rows), action_dim), rows, world.seeds)
        table.resets = [False] * len(rows)
        for k, row in enumerate(rows):
            try:
                seen[k], gain, terminated, cut, info = row.env.step(actions[k])
                table.gains[k] = gain = float(gain)
                if not math.isfinite(gain):
                    raise Unsound(f"the environment's reward is {gain}")
                if info:
                    reached = info.get("success", info.get("is_success"))
                    if reached is not None:
                        row.success = bool(row.success or reached)
                over = bool(terminated or cut)
            except UserError:
                raise
            except Exception as error:
                table.fail(k, error)
                table.begin(k)
                continue
            row.total += gain
            row.length += 1
            if record:
                row.obs.append(np.array(seen[k]))
                row.actions.append(np.array(actions[k]))
                row.rewards.append(gain)
            if over:
                table.end(k, bool(terminated))
                table.begin(k)
        obs, keep = table.settle()
        if keep is not None:
            index = index[keep]
            hook = getattr(actor, "keep", None)
            if hook is not None and len(keep):
                hook(keep)
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


def _check_actions(
    actions: NDArray[Any], shape: tuple[int, int], rows: list[_Row], seeds: list[int]
) -> None:
    if actions.ndim != 2 or len(actions) != shape[0] or (shape[1] >= 0 and actions.shape != shape):
        raise UserError(f"the actor returned actions of shape {actions.shape}, not {shape}")
    if not np.isfinite(actions).all():
        row = rows[np.flatnonzero(~np.isfinite(actions).all(axis=1))[0]]
        raise not_finite(row.index, seeds[row.index], row.length)


def not_finite(index: int, seed: int, step: int) -> UserError:
    """Return the error for an action that is no number: which episode of the queue, which step."""
    return UserError(
        f"episode {index} (seed {seed}), step {step}: the actor's action is not finite; its "
        f"training has diverged, try a lower learning rate or an earlier checkpoint"
    )
