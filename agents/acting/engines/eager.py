"""Plain torch, without gradients: any model, any device. Also the window re-run at each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import minrnn
from agents.acting.engines.base import Floats
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs


def why_not(model: DecisionModel, device: torch.device) -> str | None:
    """Return None: it acts with everything."""
    del model, device


class Eager:
    """One step of the model, its state carried."""

    name = "eager"

    def __init__(
        self, model: DecisionModel, device: torch.device, sample: torch.Generator | None = None
    ) -> None:
        """sample: draw actions from the head's distribution with this generator, on `device`."""
        self.model, self.device, self._sample = model, device, sample
        self._state: minrnn.State | None = None

    def start(self, rows: int) -> None:
        """See `Engine.start`."""
        del rows
        self._state = None

    @torch.inference_mode()
    def step(self, inputs: Inputs[NDArray[Any]]) -> Floats:
        """See `Engine.step`."""
        tensors = inputs.map(lambda part: torch.from_numpy(part).to(self.device))
        return self._act(tensors).cpu().numpy()

    @torch.inference_mode()
    def keep(self, rows: NDArray[np.int64]) -> None:
        """See `Engine.keep`."""
        if self._state is not None:
            index = torch.as_tensor(rows, device=self.device)
            self._state = minrnn.select_rows(self._state, index)

    def _act(self, inputs: Inputs[Tensor]) -> Tensor:
        y, self._state = self.model.features(inputs.map(lambda x: x.unsqueeze(1)), self._state)
        return self._action(y).squeeze(1)

    def _action(self, y: Tensor) -> Tensor:
        head = self.model.head
        return head.act(y) if self._sample is None else head.sample(y, self._sample)


class Window(Eager):
    """The model over the last `window` steps at each step, as Decision Transformer acts."""

    name = "window"

    def __init__(
        self,
        model: DecisionModel,
        device: torch.device,
        window: int,
        sample: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, device, sample)
        self.window = window
        self._history: Inputs[Tensor] | None = None

    def start(self, rows: int) -> None:
        """See `Engine.start`."""
        del rows
        self._history = None

    @torch.inference_mode()
    def keep(self, rows: NDArray[np.int64]) -> None:
        """See `Engine.keep`."""
        if self._history is not None:
            index = torch.as_tensor(rows, device=self.device)
            self._history = self._history.map(lambda part: part[index])

    def _act(self, inputs: Inputs[Tensor]) -> Tensor:
        # The inputs of the last steps are carried; copies, for the caller has the arrays.
        newest = inputs.map(lambda part: part.unsqueeze(1).clone())
        if self._history is not None:
            older = iter(part for part in self._history if part is not None)
            newest = newest.map(lambda part: torch.cat([next(older), part], 1))
        self._history = newest.map(lambda part: part[:, -self.window :])
        # The window opens with an empty state; a reset inside hides what is left of older episodes.
        resets = self._history.resets.clone()
        resets[:, 0] = True
        y, _ = self.model.features(self._history._replace(resets=resets))
        return self._action(y)[:, -1]


def make(model: DecisionModel, device: torch.device) -> Eager:
    """Return the engine."""
    return Eager(model, device)
