"""Play the episodes of a queue, each once, in the rows of a batch: the loop of steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.rollout.episode import Played, Row, Unsound, World
from envs.rollout.slots import Table
from envs.worlds.fast_mujoco import Direct
from envs.worlds.spec import EnvSpec


class Actor(Protocol):
    """What acts in K environments at once.

    An actor that holds state for each row may have a method `keep(rows)`, rows (M,) i64: it is
    called when some rows have finished, as the queue has run dry, or are lost, with the places of
    the rows that live on; the next call then has M rows, in that order.
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
    called after each episode, pause between steps. Episodes are left in the queue where every
    environment has failed and none could be made anew.
    """
    rows: list[Row] = []
    try:
        for _ in range(num_envs):
            rows.append(Row(world.make()))
        facts = _facts(world, rows[0].env)
        _play(Table(world, rows, take, finished), actor, pause)
        return facts
    finally:
        for row in rows:
            if row.lost:
                continue
            with contextlib.suppress(Exception) if world.forgiving else contextlib.nullcontext():
                row.env.close()


def _play(table: Table, actor: Actor, pause: Callable[[], None] | None) -> None:
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
                row.total += gain
                row.length += 1
                if record:
                    row.add(seen[k], actions[k], gain)
            except UserError:
                raise
            except Exception as error:
                table.fail(k, error)
                table.begin(k)
                continue
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
    made, space = env.spec, env.action_space
    named = world.env if not callable(world.env) else made.id if made is not None else ""
    return {
        "env": EnvSpec.of(named),
        "action_low": np.asarray(getattr(space, "low", ()), np.float32),
        "action_high": np.asarray(getattr(space, "high", ()), np.float32),
    }


def _check_actions(
    actions: NDArray[Any], shape: tuple[int, int], rows: list[Row], seeds: list[int]
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
