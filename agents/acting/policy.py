"""What acts: holds the return-to-go, time and last action of each row; an engine runs the model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.acting.engines.eager import Window
from agents.model.decision import DecisionModel

Array = np.ndarray


class Policy:
    """Act in a batch of environments, each episode with a target return of its own.

    An actor for :func:`envs.rollout.queue.rollout`: rows are environments, `targets[episode]` is
    the
    return asked of that episode. The return-to-go starts there and falls by each reward.

    With `window=None` the state is carried through the whole episode, by the engine of that name
    (see `agents.acting.engines`): constant cost a step. With `window=K` the last K steps are
    re-run from
    an empty state at each step, as Decision Transformer does it.
    """

    def __init__(
        self,
        model: DecisionModel,
        targets: Sequence[float] | Array,
        *,
        window: int | None = None,
        device: torch.device | str = "cpu",
        engine: str = "auto",
    ) -> None:
        if window is None:
            self.engine = engines.make(model, engine, device)
        else:
            self.engine = Window(model.to(device).eval(), torch.device(device), window)
        self.targets = np.asarray(targets, dtype=np.float64)
        self._made_of = model, window, torch.device(device)
        self._low = model.action_low.cpu().numpy()
        self._high = model.action_high.cpu().numpy()
        self._begin(0)

    def __call__(self, obs: Array, reward: Array, resets: Array, episode: Array) -> Array:
        """Return the actions (K, A) for obs (K, O).

        reward (K,) is what the previous action earned, resets (K,) marks rows that start an
        episode, episode (K,) is each row's place in the queue.
        """
        if len(self._rtg) != len(obs):
            self._begin(len(obs))
        self._rtg -= reward
        self._timestep += 1
        if resets.any():
            np.copyto(self._rtg, self.targets[episode], where=resets)
            self._timestep[resets] = 0
            self._action[resets] = 0
        action = self.engine.step(
            np.array(obs, dtype=np.float32, order="C"),
            self._rtg.astype(np.float32),
            self._action,
            self._timestep,
            np.ascontiguousarray(resets, dtype=np.bool_),
        )
        self._action = np.clip(action, self._low, self._high)
        return self._action.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of: in another process it begins anew, with the same engine."""
        model, window, device = self._made_of
        engine = "auto" if window is not None else self.engine.name
        made = functools.partial(Policy, window=window, device=device, engine=engine)
        return made, (model, self.targets)

    def keep(self, rows: Array) -> None:
        """Go on with the given rows alone (an index array): the others have no episode left."""
        self.engine.keep(rows)
        self._rtg, self._timestep = self._rtg[rows], self._timestep[rows]
        self._action = self._action[rows]

    def _begin(self, rows: int) -> None:
        self.engine.start(rows)
        self._rtg, self._timestep = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self._action = np.zeros((rows, len(self._low)), dtype=np.float32)
