"""Heads: from the stack's output to an action, and the loss of an action of the data.

`HEADS` has all of them by name (`--model.head`). A head is a module with the methods of `Head`;
`mean`, a linear layer, is what the compiled engines read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrnn.registry import same_class

HEADS: dict[str, type[Head]] = {}


def register(name: str) -> Callable[[type[Head]], type[Head]]:
    """Return a decorator that adds a head to HEADS; ValueError for the name of another."""

    def add(head: type[Head]) -> type[Head]:
        if not same_class(HEADS.get(name, head), head):
            raise ValueError(f"the head name {name!r} is taken by {HEADS[name]!r}")
        HEADS[name] = head
        return head

    return add


class Head(nn.Module):
    """Base of all heads. `y` is the stack's output (..., D), an action (..., A)."""

    action_low: Tensor
    action_high: Tensor

    def __init__(self, dim: int, low: Sequence[float], high: Sequence[float]) -> None:
        """`low` and `high` (A,) are the bounds of the actions."""
        super().__init__()
        for name, value in (("action_low", low), ("action_high", high)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        self.mean = nn.Linear(dim, len(low))

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the middle and half the width (A,) of the action bounds."""
        high, low = self.action_high / 2, self.action_low / 2  # the sum of large ones is infinite
        return high + low, high - low

    def act(self, y: Tensor) -> Tensor:
        """Return the deterministic action, tanh of `mean` scaled to the bounds, in float32."""
        middle, half = self.range()
        return middle + half * torch.tanh(self.mean(y).float())

    def sample(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random action; that of `act` where the head has no distribution."""
        del generator
        return self.act(y)

    def loss(self, y: Tensor, action: Tensor) -> Tensor:
        """Return the loss (...) of each step at the data's `action`."""
        raise NotImplementedError


@register("tanh")
class TanhHead(Head):
    """A point: mean squared error in units of half the action range."""

    def loss(self, y: Tensor, action: Tensor) -> Tensor:
        """Return the squared error (...), averaged over the action's dimensions."""
        _, half = self.range()
        return ((self.act(y) - action) / half).square().mean(-1)


@register("tanh_gaussian")
class TanhGaussianHead(Head):
    """A Gaussian squashed by tanh, as SAC's: negative log-likelihood; acts by its mean.

    Its log standard deviation is kept within -5 to 2 (Haarnoja et al., arXiv:1801.01290, bound it
    too). Actions of the data at a bound, where the density is infinite, count as `INSIDE` of it.
    """

    INSIDE = 1.0 - 1e-4

    def __init__(self, dim: int, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__(dim, low, high)
        self.log_std = nn.Linear(dim, len(low))

    def _std(self, y: Tensor) -> Tensor:
        return self.log_std(y).float().clamp(-5.0, 2.0).exp()

    def sample(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random action."""
        mean = self.mean(y).float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        middle, half = self.range()
        return middle + half * torch.tanh(mean + self._std(y) * noise)

    def loss(self, y: Tensor, action: Tensor) -> Tensor:
        """Return the negative log-likelihood (...) in nats, a mean over the action's dimensions."""
        middle, half = self.range()
        u = torch.atanh(((action - middle) / half).clamp(-self.INSIDE, self.INSIDE))
        std = self._std(y)
        normal = ((u - self.mean(y).float()) / std).square() / 2 + std.log()
        # log(1 - tanh(u)^2), without the difference.
        slope = 2 * (math.log(2) - u - F.softplus(-2 * u)) + half.log()
        return (normal + slope + math.log(2 * math.pi) / 2).mean(-1)
