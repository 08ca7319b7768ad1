"""Plain torch, without gradients: any model, any device. Also the window re-run at each step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import minrnn
from agents.acting.engines import Floats
from agents.model.decision import DecisionModel


def why_not(model: DecisionModel, device: torch.device) -> str | None:
    """Return None: it acts with everything."""
    del model, device


class Eager:
    """One step of the model, its state carried."""

    name = "eager"

    def __init__(self, model: DecisionModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self._state: minrnn.State | None = None

    def start(self, rows: int) -> None:
        """See `Engine.start`."""
        del rows
        self._state = None

    @torch.inference_mode()
    def step(
        self,
        obs: Floats,
        rtg: Floats,
        prev_action: Floats,
        timestep: NDArray[np.int64],
        resets: NDArray[np.bool_],
    ) -> Floats:
        """See `Engine.step`."""
        given = (obs, rtg[:, None], prev_action, timestep, resets)
        inputs = [torch.from_numpy(part).to(self.device) for part in given]
        return self._act(inputs).cpu().numpy()

    @torch.inference_mode()
    def keep(self, rows: NDArray[np.int64]) -> None:
        """See `Engine.keep`."""
        if self._state is not None:
            index = torch.as_tensor(rows, device=self.device)
            self._state = minrnn.select_rows(self._state, index)

    def _act(self, inputs: list[Tensor]) -> Tensor:
        action, self._state = self.model.step(*inputs, state=self._state)
        return action


class Window(Eager):
    """The model over the last `window` steps at each step, as Decision Transformer acts."""

    name = "window"

    def __init__(self, model: DecisionModel, device: torch.device, window: int) -> None:
        super().__init__(model, device)
        self.window = window

    def _act(self, inputs: list[Tensor]) -> Tensor:
        # What is carried is the inputs of the last steps; copies, for the caller has the arrays.
        newest = [part.unsqueeze(1).clone() for part in inputs]
        if isinstance(self._state, list):
            newest = [torch.cat(pair, 1) for pair in zip(self._state, newest, strict=True)]  # type: ignore[arg-type]
        history = [part[:, -self.window :] for part in newest]
        self._state = [*history]
        obs, rtg, prev_action, timestep, resets = history
        # The window opens with an empty state; a reset inside hides what is left of older episodes.
        resets = resets.clone()
        resets[:, 0] = True
        actions, _ = self.model(obs, rtg, prev_action, timestep, resets)
        return actions[:, -1]


def make(model: DecisionModel, device: torch.device) -> Eager:
    """Return the engine."""
    return Eager(model, device)
