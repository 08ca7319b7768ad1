"""The loop of a rollout: step all environments at once until the queue of episodes is empty."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.rollout.episode import InvalidOutput, Outcome, Settings, Slot
from envs.rollout.slots import Slots
from envs.worlds.fast_mujoco import FastWalker
from envs.worlds.spec import EnvSpec


class Actor(Protocol):
    """Chooses the actions of K environments at once.

    An actor that holds state for each row may have a method `keep(rows)`, rows (M,) i64. It is
    called when rows have finished because the queue is empty, or have been lost. `rows` are the
    places of those that continue; the next call then has M rows, in that order.
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


def run_episodes(
    settings: Settings,
    actor: Actor,
    num_envs: int,
    take: Callable[[], int | None],
    finished: Callable[[Outcome], None],
    after_step: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Run episodes until the queue is empty; return the fields of Rollout about the environment.

    take() returns the place in the queue of the next episode, None when it is empty. finished is
    called after each episode. Episodes remain in the queue where every environment has failed and
    none could be made again.
    """
    slots: list[Slot] = []
    try:
        for _ in range(num_envs):
            slots.append(Slot(settings.make()))
        fields = _env_fields(settings, slots[0].env)
        _loop(Slots(settings, slots, take, finished), actor, after_step)
        return fields
    finally:
        for slot in slots:
            if slot.lost:
                continue
            with contextlib.suppress(Exception) if settings.tolerant else contextlib.nullcontext():
                slot.env.close()


def _loop(running: Slots, actor: Actor, after_step: Callable[[], None] | None) -> None:
    settings, record = running.settings, running.settings.record
    space = running.slots[0].env.action_space
    action_dim = space.shape[0] if isinstance(space, gym.spaces.Box) else -1
    obs, _ = running.settle()
    index = np.array([slot.outcome.index for slot in running.slots])
    while running.slots:
        slots, seen = running.slots, running.obs
        # Fresh arrays at every step: an actor may keep those it was given.
        reward, resets = np.array(running.rewards), np.array(running.resets, np.bool_)
        if resets.any():
            index = np.array([slot.outcome.index for slot in slots])
        chosen = np.asarray(actor(obs, reward, resets, index))
        bad = check_actions(chosen, (len(slots), action_dim))
        if bad is not None:
            outcome = slots[bad].outcome
            raise action_error(outcome.index, settings.seeds[outcome.index], outcome.length)
        actions = chosen.copy()  # an environment may write into its action
        running.resets = [False] * len(slots)
        for k, slot in enumerate(slots):
            try:
                seen[k], gain, terminated, truncated, info = slot.env.step(actions[k])
                running.rewards[k] = gain = float(gain)
                if not math.isfinite(gain):
                    raise InvalidOutput(f"the environment's reward is {gain}")
                outcome = slot.outcome
                if info:
                    reached = info.get("success", info.get("is_success"))
                    if reached is not None:
                        outcome.success = bool(outcome.success or reached)
                ended = bool(terminated or truncated)
                outcome.total += gain
                outcome.length += 1
                if record:
                    slot.add(seen[k], chosen[k], gain)
            except UserError:
                raise
            except Exception as error:
                running.fail(k, error)
                running.begin(k)
                continue
            if ended:
                running.end(k, bool(terminated))
                running.begin(k)
        obs, keep = running.settle()
        if keep is not None:
            index = index[keep]
            hook = getattr(actor, "keep", None)
            if hook is not None and len(keep):
                hook(keep)
        if after_step is not None:
            after_step()


def _env_fields(settings: Settings, env: gym.Env[Any, Any] | FastWalker) -> dict[str, Any]:
    given, space = settings.env, env.action_space
    spec = EnvSpec(env.spec.id if env.spec else "") if callable(given) else EnvSpec.of(given)
    return {
        "env": spec,
        "action_low": np.asarray(getattr(space, "low", ()), np.float32),
        "action_high": np.asarray(getattr(space, "high", ()), np.float32),
    }


def check_actions(actions: NDArray[Any], shape: tuple[int, int]) -> int | None:
    """Return the first row that is not finite; UserError unless the shape is (K, A), or A is -1."""
    if actions.ndim != 2 or len(actions) != shape[0] or (shape[1] >= 0 and actions.shape != shape):
        raise UserError(f"the actor returned actions of shape {actions.shape}, not {shape}")
    finite = np.isfinite(actions)
    return None if finite.all() else int(np.flatnonzero(~finite.all(axis=1))[0])


def action_error(index: int, seed: int, step: int) -> UserError:
    """Return the error for an action that is not finite in a step of an episode of the queue."""
    return UserError(
        f"episode {index} (seed {seed}), step {step}: the actor's action is not finite; its "
        f"training has diverged, try a lower learning rate or an earlier checkpoint"
    )
