"""What acts: holds the recurrent state and the return-to-go of each row, one model step a call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import minrnn
from agents.decision import DecisionModel

Array = np.ndarray


class Policy:
    """Act in a batch of environments, each episode with a target return of its own.

    An actor for :func:`envs.rollout.rollout`: rows are environments, `targets[episode]` is the
    return asked of that episode. The return-to-go starts there and falls by each reward.

    With `window=None` the state is carried through the whole episode: constant cost a step. With
    `window=K` the last K steps are re-run from an empty state at each step, as Decision Transformer
    does it.
    """

    def __init__(
        self,
        model: DecisionModel,
        targets: Sequence[float] | Array,
        *,
        window: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.to(device).eval()
        self.targets = np.asarray(targets, dtype=np.float64)
        self.window = window
        self.device = torch.device(device)
        self._state: minrnn.State | None = None
        self._history: list[Tensor] | None = None
        self._rtg = np.zeros(0)
        self._timestep = np.zeros(0, dtype=np.int64)
        self._action = torch.zeros(0, model.action_dim, device=self.device)

    @torch.inference_mode()
    def __call__(self, obs: Array, reward: Array, resets: Array, episode: Array) -> Array:
        """Return the actions (K, A) for obs (K, O).

        reward (K,) is what the previous action earned, resets (K,) marks rows that start an
        episode, episode (K,) is each row's place in the queue.
        """
        if len(self._rtg) != len(obs):
            self._begin(len(obs))
        self._rtg = np.where(resets, self.targets[episode], self._rtg - reward)
        self._timestep = np.where(resets, 0, self._timestep + 1)
        started = torch.as_tensor(resets, device=self.device)
        inputs = [
            torch.as_tensor(np.asarray(obs, dtype=np.float32), device=self.device),
            torch.as_tensor(self._rtg[:, None].astype(np.float32), device=self.device),
            self._action.masked_fill(started.unsqueeze(-1), 0),
            torch.as_tensor(self._timestep, device=self.device),
            started,
        ]
        if self.window is None:
            action, self._state = self.model.step(*inputs, state=self._state)
        else:
            action = self._from_window(inputs)
        low, high = self.model.action_low, self.model.action_high
        self._action = torch.minimum(torch.maximum(action, low), high)
        return self._action.cpu().numpy()

    def keep(self, rows: Array) -> None:
        """Go on with the given rows alone (an index array): the others have no episode left."""
        index = torch.as_tensor(rows, device=self.device)
        self._rtg, self._timestep = self._rtg[rows], self._timestep[rows]
        self._action = self._action[index]
        if self._state is not None:
            self._state = minrnn.select_rows(self._state, index)
        if self._history is not None:
            self._history = [part[index] for part in self._history]

    def _begin(self, rows: int) -> None:
        self._state, self._history = None, None
        self._rtg, self._timestep = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self._action = torch.zeros(rows, self.model.action_dim, device=self.device)

    def _from_window(self, inputs: list[Tensor]) -> Tensor:
        """Push the newest step into the history and run the model over its last `window` steps."""
        newest = [part.unsqueeze(1) for part in inputs]
        if self._history is not None:
            newest = [torch.cat(pair, 1) for pair in zip(self._history, newest, strict=True)]
        history = [part[:, -self.window :] for part in newest]  # type: ignore[operator]
        self._history = history
        obs, rtg, prev_action, timestep, resets = history
        # The window opens with an empty state; a reset inside hides what is left of older episodes.
        resets = resets.clone()
        resets[:, 0] = True
        actions, _ = self.model(obs, rtg, prev_action, timestep, resets)
        return actions[:, -1]
