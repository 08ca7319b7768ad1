"""Plain torch, without gradients: any model, any device. Also the window re-run at each step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import minrnn
from agents.acting.engines.base import Floats, check_times
from agents.model.decision import DecisionModel
from agents.model.inputs import Inputs


def why_not(model: DecisionModel, device: torch.device) -> str | None:
    """Return None: it acts with everything."""
    del model, device


class Noise:
    """A random generator for each row, seeded for each episode: whatever rows are beside it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.rows: list[torch.Generator] = []
        self._seed, self._device, self._begun = seed, device, Counter[int]()

    def start(self, rows: int) -> None:
        """Begin with so many rows."""
        self.rows = [torch.Generator(self._device) for _ in range(rows)]

    def begin(self, resets: NDArray[np.bool_], episode: NDArray[np.int64]) -> None:
        """Seed the rows where an episode starts; each time that it does is another one."""
        for row in np.flatnonzero(resets):
            index = int(episode[row])
            entropy = self._seed % 2**64, index, self._begun[index]
            self._begun[index] += 1
            seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
            self.rows[row].manual_seed(int(seed))

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Continue with these rows only."""
        self.rows = [self.rows[row] for row in rows]


class Eager:
    """One step of the model, its state carried."""

    name = "eager"

    def __init__(
        self, model: DecisionModel, device: torch.device, noise: Noise | None = None
    ) -> None:
        """noise: draw actions from the head's distribution with its generators, on `device`."""
        self.model, self.device, self._noise = model, device, noise
        self._limit = model.config.timestep_embedding or None
        self._state: minrnn.State | None = None

    def start(self, rows: int) -> None:
        """See `Engine.start`."""
        del rows
        self._state = None

    @torch.inference_mode()
    def step(self, inputs: Inputs[NDArray[Any]]) -> Floats:
        """See `Engine.step`. Raises UserError beyond the time steps that the model has learned."""
        check_times(inputs.timestep, self._limit)
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
        if self._noise is None:
            return head.act(y)
        rows = zip(y.split(1), self._noise.rows, strict=True)
        return torch.cat([head.sample(row, generator) for row, generator in rows])


class Window(Eager):
    """The model over the last `window` steps at each step, as Decision Transformer acts."""

    name = "window"

    def __init__(
        self,
        model: DecisionModel,
        device: torch.device,
        window: int,
        noise: Noise | None = None,
    ) -> None:
        super().__init__(model, device, noise)
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
