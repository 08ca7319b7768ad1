"""One residual block: norm, convolution if wanted, mixer, norm, MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from minrnn.conv import ShortConv
from minrnn.interface import SequenceMixer, State
from minrnn.mlp import ACTIVATIONS, MLP

T = TypeVar("T")

NORMS: dict[str, Callable[[int], nn.Module]] = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class Block(SequenceMixer):
    """Compute x + drop(mixer(norm(x))), then x + drop(mlp(norm(x))). The state is the mixer's.

    mlp_ratio: width of the MLP's hidden layer over that of x; 0 leaves the MLP out.
    activation: "relu" or "gelu". norm: "layernorm" or "rmsnorm".
    conv: width of a causal convolution between norm and mixer (4 in the language block of
    arXiv:2410.01201, Conv4 -> minRNN -> MLP); 0 leaves it out. With it the state is the tuple
    (that of the `ShortConv`, the mixer's). lucidrains/minGRU-pytorch adds the convolution to
    x before the norm, and mixes channels after it; here it starts as u + conv(u) of the
    normalised u, which the mixer's own projections mix.

    >>> import torch
    >>> from minrnn import MinGRU
    >>> y, state = Block(MinGRU(8))(torch.randn(2, 5, 8))
    >>> y.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        mixer: SequenceMixer,
        *,
        mlp_ratio: float = 4.0,
        activation: str = "relu",
        norm: str = "layernorm",
        dropout: float = 0.0,
        conv: int = 0,
    ) -> None:
        super().__init__()
        dim = self.dim = mixer.dim
        make_norm = choose("norm", norm, NORMS)
        choose("activation", activation, ACTIVATIONS)
        self.norm1 = make_norm(dim)
        self.conv = ShortConv(dim, conv, skip=True) if conv else None
        self.mixer = mixer
        self.drop = nn.Dropout(dropout)
        self.norm2: nn.Module | None = None
        self.mlp: nn.Module | None = None
        if mlp_ratio:
            self.norm2 = make_norm(dim)
            self.mlp = MLP(dim, round(dim * mlp_ratio), activation)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        u = cast(Tensor, self.norm1(x))
        if self.conv is None:
            y, new = self.mixer(u, state, resets)
            return self._finish(x, y), new
        past, state = self._split(state)
        u, past = self.conv(u, past, resets)
        y, new = self.mixer(u, state, resets)
        return self._finish(x, y), (past, new)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read (B, dim); see `SequenceMixer.step`."""
        u = cast(Tensor, self.norm1(x))
        if self.conv is None:
            y, new = self.mixer.step(u, state, resets)
            return self._finish(x, y), new
        past, state = self._split(state)
        u, past = self.conv.step(u, past, resets)
        y, new = self.mixer.step(u, state, resets)
        return self._finish(x, y), (past, new)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return the mixer's initial state; with a convolution, the pair."""
        fresh = self.mixer.initial_state(batch_size, device, dtype)
        if self.conv is None:
            return fresh
        return self.conv.initial_state(batch_size, device, dtype), fresh

    def _split(self, state: State | None) -> tuple[State | None, State | None]:
        if state is None:
            return None, None
        if not isinstance(state, tuple) or len(state) != 2:
            raise TypeError(
                "the state of a Block with a convolution is a tuple: the convolution's, the mixer's"
            )
        return state

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + cast(Tensor, self.drop(y))
        if self.mlp is None or self.norm2 is None:
            return x
        return x + cast(Tensor, self.drop(self.mlp(self.norm2(x))))


def choose(what: str, name: str, there: dict[str, T]) -> T:
    """Return the entry of a name, or raise a ValueError that lists the names."""
    if name not in there:
        raise ValueError(f"no {what} {name!r}; there is {', '.join(there)}")
    return there[name]
