"""An agent for scripts: loaded in one line, acting in one environment or many."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.acting.policy import Policy
from agents.model.decision import DecisionModel
from agents.storage.checkpoint import load_checkpoint
from envs.errors import UserError
from envs.worlds.make import make_env
from envs.worlds.spec import EnvSpec
from minrnn.registry import hint


def load(
    run: Path | str,
    *,
    target: float | None = None,
    checkpoint: str = "last",
    device: str = "cpu",
    engine: str = "auto",
    window: int | Literal["run"] | None = "run",
    sample: int | None = None,
) -> Agent:
    """Return the agent of a run of train.py, or of a checkpoint's folder.

    target: the return to ask for; by default the largest that the run was evaluated with.
    checkpoint: last or best. window: the number of last steps to re-run at each step, or None to
    carry the state; by default as the run was evaluated. engine: as in Policy, for a state that is
    carried. sample: a seed, to draw actions from the head's distribution. Raises UserError where
    there is no such checkpoint, or a damaged one, and for an engine beside a window.

    Example:
        agent = agents.load("runs/minrnn-hopper-medium-replay-v0/mingru-seed0")
        action = agent.act(obs)  # then agent.act(obs, reward); agent.reset() between episodes
    """
    folder = Path(run)
    if checkpoint not in ("last", "best"):
        raise UserError(f"no checkpoint {checkpoint!r}{hint(checkpoint, ('last', 'best'))}")
    if not (folder / "agent.json").is_file():
        folder = folder / checkpoint
    model, metadata = load_checkpoint(folder)
    if target is None and not metadata["targets"]:
        raise UserError(f"{folder} names no target return: give one, as in load(..., target=100)")
    asked = max(metadata["targets"]) if target is None else target
    steps: int | None = metadata["window"] if isinstance(window, str) else window
    if steps is not None and engine != "auto":
        raise UserError(
            f"the engine {engine} carries a state, and this agent re-runs a window of {steps} "
            "steps: give window=None, or leave the engine out"
        )
    policy = Policy(model, [asked], device=device, engine=engine, window=steps, sample=sample)
    return Agent(policy, model, metadata)


class Agent:
    """A policy with a state for each environment, its torch `model` and the `metadata` saved."""

    def __init__(self, policy: Policy, model: DecisionModel, metadata: dict[str, Any]) -> None:
        self.model, self.metadata, self._policy = model, metadata, policy
        self._reward_was_given = False
        self.reset()

    def make_env(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Return its environment, with flat observations. kwargs: more for gymnasium.make."""
        spec = EnvSpec.from_json(self.metadata)
        return make_env(dataclasses.replace(spec, kwargs={**spec.kwargs, **kwargs}))

    def reset(self, target: float | None = None) -> None:
        """Start an episode in every environment at the next `act`, asking for `target` if given."""
        self._rows = 0
        if target is not None:
            self._policy.targets[0] = target

    def act(
        self, obs: ArrayLike, reward: ArrayLike | None = None, resets: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return the action (A,) for an observation (O,), or actions (K, A) for (K, O).

        reward: what the previous action earned, a number or (K,); the return-to-go falls by it.
        Without it the return-to-go stays at the target, and a warning says so once.
        resets: True, or (K,) of them, where an episode starts with this observation. A vector
        environment of gymnasium returned `terminated | truncated` for it with this observation in
        its mode SAME_STEP, but one step before in NEXT_STEP, its default.
        Raises UserError for what does not fit or is not finite, which then changes nothing.
        """
        if isinstance(obs, dict | tuple):
            raise UserError("the agent reads flat observations: take them from agent.make_env()")
        given = np.asarray(obs, np.float64)
        rows = np.atleast_2d(given)
        if rows.shape[1] != self.model.obs_dim:
            raise UserError(
                f"an observation has {rows.shape[1]} numbers, the agent reads {self.model.obs_dim}"
            )
        if self._rows not in (0, len(rows)):
            raise UserError(f"{len(rows)} observations after {self._rows}: reset() the agent first")
        for name, value in (("reward", reward), ("resets", resets)):
            if value is not None and np.shape(value) not in ((), (len(rows),)):
                raise UserError(f"{name} of shape {np.shape(value)} for {len(rows)} observations")
        marks = np.asarray(False if resets is None else resets)
        if marks.dtype != np.bool_:
            raise UserError(f"resets must be bool, not {marks.dtype}: pass resets.astype(bool)")
        if self.model.normaliser.obs_offset and getattr(obs, "dtype", None) == np.float32:
            warnings.warn(
                "observations in float32 have lost digits beside the constant that this agent "
                "takes off them: pass them in float64, as the environment gives them",
                stacklevel=2,
            )
        fresh = not self._rows
        starts = np.full(len(rows), fresh) | marks
        earned = np.broadcast_to(np.asarray(0.0 if reward is None else reward), len(rows))
        for name, bad in (
            ("observation", ~np.isfinite(rows).all(axis=1)),
            ("reward", ~(np.isfinite(earned) | starts)),
        ):
            if bad.any():
                raise UserError(
                    f"the {name} of environment {bad.argmax()} is not finite: reset it, and start "
                    "an episode there (resets)"
                )
        if fresh:
            self._rows = len(rows)
            self._policy.start(self._rows)
        self._reward_was_given |= reward is not None
        if not (self._reward_was_given or starts.all()):
            self._reward_was_given = True
            warnings.warn(
                "act() was given no reward: the return-to-go stays at the target; pass the reward "
                "of the previous step, as in agent.act(obs, reward)",
                stacklevel=2,
            )
        earned = np.where(starts, 0.0, earned)
        action = self._policy(rows, earned, starts, np.zeros(self._rows, np.int64))
        return action[0] if given.ndim == 1 else action
