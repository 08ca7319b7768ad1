"""What acts: holds the return-to-go, time and last action of each row; an engine runs the model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agents.acting import engines
from agents.acting.engines.eager import Eager, Noise, Window
from agents.model.decision import DecisionModel
from agents.model.inputs import EpisodeInputs
from envs.errors import UserError

Array = np.ndarray


class Policy:
    """Act in a batch of environments, each episode with a target return of its own.

    An actor for `envs.rollout.rollout`: rows are environments, `targets[episode]` is the return
    asked of that episode. With `window=None` the state is carried through the episode, by the
    engine of that name: constant cost a step. With `window=K` the last K steps are re-run from an
    empty state at each step, as Decision Transformer does it. Where the model's weights change,
    episodes that start from then on act by the new ones.
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
        """sample: a seed; actions are then drawn from the head's distribution, by plain torch.

        The draws of an episode depend on the seed and its index, not on the rows beside it.
        """
        device = torch.device(device)
        self._made_of = model, window, device, sample
        self._noise = None if sample is None else Noise(sample, device)
        if window is None and sample is None:
            self.engine = engines.make(model, engine, device)
        elif window is None:
            self.engine = Eager(model.to(device), device, self._noise)
        else:
            self.engine = Window(model.to(device), device, window, self._noise)
        self._weights = _versions(model)
        self._low = model.head.action_low.cpu().numpy()
        self._high = model.head.action_high.cpu().numpy()
        offset = model.normaliser.obs_offset
        self._inputs = EpisodeInputs(targets, model.action_dim, model.config.inputs, offset)
        self.start(0)

    @property
    def targets(self) -> Array:
        """The target return of each episode."""
        return self._inputs.targets

    def __call__(self, obs: Array, reward: Array, resets: Array, episode: Array) -> Array:
        """Return the actions (K, A) for obs (K, O); arguments as of EpisodeInputs.observe.

        Raises UserError where episodes are under way that this policy, or a copy, did not begin.
        """
        if self._rows != len(obs):
            if not resets.all():
                raise UserError(
                    f"{len(obs)} episodes are under way, of which this policy has {self._rows}: a "
                    "copy has none, begin new ones (resets)"
                )
            self.start(len(obs))
        self._follow(resets)
        if self._noise is not None:
            self._noise.begin(resets, episode)
        action = self.engine.step(self._inputs.observe(obs, reward, resets, episode))
        action = np.minimum(np.maximum(action, self._low), self._high)  # np.clip is slower
        self._inputs.acted(action)
        return action.copy()

    def start(self, rows: int) -> None:
        """Begin with so many environments, every state empty."""
        self._rows = rows
        self.engine.start(rows)
        self._inputs.start(rows)
        if self._noise is not None:
            self._noise.start(rows)

    def _follow(self, resets: Array) -> None:
        # Training goes on with the same model, perhaps: in training mode, and to other weights, of
        # which most engines have a copy. A state that is carried is of the weights that made it.
        model, _, device, _ = self._made_of
        if model.training:
            model.eval()
        if isinstance(self.engine, Eager) or not (resets[:1].any() and resets.all()):
            return
        if (now := _versions(model)) != self._weights:
            self.engine, self._weights = engines.make(model, self.engine.name, device), now
            self.engine.start(self._rows)

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
        if self._noise is not None:
            self._noise.keep(rows)
        self._rows = len(rows)


def _versions(model: DecisionModel) -> list[tuple[int, int]]:
    # A tensor's version counts what was written into it.
    tensors = (*model.parameters(), *model.buffers())
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
