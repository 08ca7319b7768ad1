"""What acts: holds the return-to-go, time and last action of each row; an engine runs the model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.acting.engines.eager import Eager, Window
from agents.model.decision import DecisionModel
from agents.model.inputs import EpisodeInputs

Array = np.ndarray


class Policy:
    """Act in a batch of environments, each episode with a target return of its own.

    An actor for `envs.rollout.rollout`: rows are environments, `targets[episode]` is the return
    asked of that episode. With `window=None` the state is carried through the episode, by the
    engine of that name: constant cost a step. With `window=K` the last K steps are re-run from an
    empty state at each step, as Decision Transformer does it.
    """

    def __init__(
        self,
        model: DecisionModel,
        targets: Sequence[float] | Array,
        *,
        window: int | None = None,
        device: torch.device | str = "cpu",
        engine: str = "auto",
        sample: int | None = None,
    ) -> None:
        """sample: a seed; actions are then drawn from the head's distribution, by plain torch."""
        device = torch.device(device)
        self._made_of = model, window, device, sample
        if window is None and sample is None:
            self.engine = engines.make(model, engine, device)
        else:
            model = model.to(device).eval()
            draws = None if sample is None else torch.Generator(device).manual_seed(sample)
            if window is None:
                self.engine = Eager(model, device, draws)
            else:
                self.engine = Window(model, device, window, draws)
        self._low = model.head.action_low.cpu().numpy()
        self._high = model.head.action_high.cpu().numpy()
        self._inputs = EpisodeInputs(targets, model.action_dim, model.config.inputs)
        self.start(0)

    @property
    def targets(self) -> Array:
        """The target return of each episode."""
        return self._inputs.targets

    def __call__(self, obs: Array, reward: Array, resets: Array, episode: Array) -> Array:
        """Return the actions (K, A) for obs (K, O); arguments as of EpisodeInputs.observe."""
        if self._rows != len(obs):
            self.start(len(obs))
        action = self.engine.step(self._inputs.observe(obs, reward, resets, episode))
        action = np.minimum(np.maximum(action, self._low), self._high)  # np.clip is slower
        self._inputs.acted(action)
        return action.copy()

    def start(self, rows: int) -> None:
        """Begin with so many environments, every state empty."""
        self._rows = rows
        self.engine.start(rows)
        self._inputs.start(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle its arguments: in another process it starts afresh, with the same engine."""
        model, window, device, sample = self._made_of
        engine = "auto" if window is not None or sample is not None else self.engine.name
        made = functools.partial(Policy, window=window, device=device, engine=engine, sample=sample)
        return made, (model, self.targets)

    def keep(self, rows: Array) -> None:
        """Continue with the given rows only (an index array): the others have no episode left."""
        self.engine.keep(rows)
        self._inputs.keep(rows)
        self._rows = len(rows)
