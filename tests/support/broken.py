"""Cells that are broken on purpose, one for each law: copies of a minGRU with one thing wrong."""

import torch
from torch import Tensor

from minrnn import MinGRU


class Good(MinGRU):
    """The same, with a state that has a spare leaf, so that the others can misuse it."""

    def initial_state(self, batch_size, device=None, dtype=None):
        h = super().initial_state(batch_size, device, dtype)
        return h, torch.zeros_like(h)

    def forward(self, x, state=None, resets=None):
        h, spare = state or self.initial_state(len(x))
        y, h = super().forward(x, h, resets)
        return y, (h, torch.zeros_like(spare))

    def step(self, x, state=None, resets=None):
        h, spare = state or self.initial_state(len(x))
        y, h = super().step(x, h, resets)
        return y, (h, torch.zeros_like(spare))


class ModifiesItsState(Good):
    def step(self, x, state=None, resets=None):
        y, (h, spare) = super().step(x, state, resets)
        if state is not None:
            state[0].copy_(h)
        return y, (h, spare)


class ModifiesItsResets(Good):
    def forward(self, x, state=None, resets=None):
        result = super().forward(x, state, resets)
        if resets is not None:
            resets[:, 0] = True
        return result


class Remembers(Good):
    """Keeps a running buffer, as batch normalisation in training mode would."""

    def __init__(self, dim):
        super().__init__(dim)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, state=None, resets=None):
        self.calls += 1
        return super().forward(x, state, resets)


class StartsElsewhere(Good):
    """Begins at ones if no state is given, and calls zeros the initial state."""

    def forward(self, x, state=None, resets=None):
        if state is None:
            state = tuple(leaf + 1 for leaf in self.initial_state(len(x)))
        return super().forward(x, state, resets)


class CannotBePickled(Good):
    def __init__(self, dim):
        super().__init__(dim)
        self.hook = lambda x: x

    def __deepcopy__(self, memo):
        return type(self)(self.dim).to(self.gate.weight.dtype)


class LooksAhead(Good):
    def forward(self, x, state=None, resets=None):
        return super().forward(x + x.mean(1, keepdim=True), state, resets)


class StepsDifferently(Good):
    def step(self, x, state=None, resets=None):
        y, state = super().step(x, state, resets)
        return y + 0.01 * x, state


class LosesTheCarriedState(Good):
    """Puts the carried state through g again, as some minLSTM codes do; g(0) is not 0, so shift."""

    def forward(self, x, state=None, resets=None):
        if state is not None:
            state = (torch.tanh(state[0]), state[1])
        return super().forward(x, state, resets)


class IgnoresResets(Good):
    def forward(self, x, state=None, resets=None):
        return super().forward(x, state, None)

    def step(self, x, state=None, resets=None):
        return super().step(x, state, None)


class IgnoresResetsInSteps(Good):
    def step(self, x, state=None, resets=None):
        return super().step(x, state, None)


class ResetsOneStepLate(Good):
    def forward(self, x, state=None, resets=None):
        if resets is not None:
            resets = torch.cat([resets[:, :1] & False, resets[:, :-1]], 1)
        return super().forward(x, state, resets)


class MultipliesTheStateAway(Good):
    """Resets by state * (1 - reset), which turns NaN into NaN."""

    def step(self, x, state=None, resets=None):
        if state is not None and resets is not None:
            state = tuple(leaf * (1 - resets.to(leaf.dtype))[:, None] for leaf in state)
        return super().step(x, state)


class LeaksThroughTheGradient(Good):
    """The output is clean, but 0 * NaN is in the gradient."""

    def step(self, x, state=None, resets=None):
        if state is not None and resets is not None:
            h = self.candidate.weight.sum() * 1e-3 * state[0]
            h = torch.where(resets[:, None], 0.0, h)
            h = h + torch.where(resets[:, None], 0.0, state[0] - h.detach())
            return super().step(x, (h, state[1]))
        return super().step(x, state, resets)


class KeepsRubbish(Good):
    """Has the right outputs, but a leaf of the state that still shows the episode before."""

    def forward(self, x, state=None, resets=None):
        y, (h, spare) = super().forward(x, state, resets)
        return y, (h, spare + x[:, :1].sum(1) + x.sum(1))

    def step(self, x, state=None, resets=None):
        old = torch.zeros_like(x) if state is None else state[1]
        y, (h, _) = super().step(x, state, resets)
        return y, (h, old + x)


class CutsTheGradient(Good):
    def forward(self, x, state=None, resets=None):
        if state is not None:
            state = tuple(leaf.detach() for leaf in state)
        return super().forward(x, state, resets)


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * 1.01


class ScalesTheGradient(Good):
    def forward(self, x, state=None, resets=None):
        y, state = super().forward(x, state, resets)
        return _Wrong.apply(y), state


BROKEN = {
    ModifiesItsState: "Purity",
    ModifiesItsResets: "Purity",
    Remembers: "Purity",
    StartsElsewhere: "Purity",
    CannotBePickled: "Purity",
    LooksAhead: "Causality",
    StepsDifferently: "Step",
    LosesTheCarriedState: "Carry",
    IgnoresResets: "Reset",
    IgnoresResetsInSteps: "Reset",
    ResetsOneStepLate: "Reset",
    MultipliesTheStateAway: "Hygiene",
    LeaksThroughTheGradient: "Hygiene",
    KeepsRubbish: "Canonical",
    CutsTheGradient: "Gradients",
    ScalesTheGradient: "Gradients",
}
