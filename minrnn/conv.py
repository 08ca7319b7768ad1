"""A short causal convolution over time, one filter a channel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.scan.conv import short_conv


class ShortConv(SequenceMixer):
    """Compute y_t = bias + sum_j weight[:, width - 1 - j] * x_{t-j} for j < width, in an episode.

    What lies before the episode counts as zero. The state is the last width - 1 inputs,
    (B, width - 1, dim), the oldest first, zero where there is none. skip: start out as
    x + conv(x); the filter has a tap for x_t, so this is its initialisation, and costs nothing.

    >>> import torch
    >>> conv = ShortConv(8, width=4)
    >>> y, state = conv(torch.randn(2, 5, 8))
    >>> y, state = conv.step(torch.randn(2, 8), state)
    >>> y.shape, state.shape
    (torch.Size([2, 8]), torch.Size([2, 3, 8]))
    """

    def __init__(self, dim: int, width: int = 4, *, skip: bool = False) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}")
        if width < 2:
            raise ValueError(f"a convolution of width {width} sees no past; use 2 or more")
        self.dim = dim
        self.width = width
        bound = 1 / math.sqrt(width)  # as nn.Conv1d
        self.weight = nn.Parameter(torch.empty(dim, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        if skip:
            with torch.no_grad():
                self.weight[:, -1].add_(1.0)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, last = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), last
        dtype = state_dtype(x.dtype)
        wide, before = x.to(dtype), None if state is None else self._past(x, state)
        y = short_conv(wide, self.weight.to(dtype), self.bias.to(dtype), before, resets)
        return y.to(x.dtype), self._last(wide, before, resets)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        past = self._past(x, state)
        if resets is not None and state is not None:
            past = past.masked_fill(resets[:, None, None], 0.0)
        seen = torch.cat([past, x.to(past.dtype).unsqueeze(1)], 1)
        y = (seen * self.weight.to(past.dtype).t()).sum(1) + self.bias.to(past.dtype)
        return y.to(x.dtype), seen[:, 1:]

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return zeros (batch_size, width - 1, dim)."""
        like = self.weight
        return torch.zeros(
            batch_size,
            self.width - 1,
            self.dim,
            device=device or like.device,
            dtype=dtype or state_dtype(like.dtype),
        )

    def extra_repr(self) -> str:
        """Show the sizes in the module's printout."""
        return f"{self.dim}, width={self.width}"

    def _last(self, x: Tensor, before: Tensor | None, resets: Tensor | None) -> Tensor:
        # The last width - 1 inputs, zero where they are not of the last step's episode.
        past = self.width - 1
        last = x[:, -past:]
        if before is None:
            last = F.pad(last, (0, 0, past - last.shape[1], 0))
        else:
            last = torch.cat([before[:, last.shape[1] :], last], 1)
        if resets is None:
            return last.clone(memory_format=torch.contiguous_format)
        # A reset at step t hides all inputs before x_t.
        ends = F.pad(resets[:, -past:], (max(past - resets.shape[1], 0), 0))
        later = ends.flip(1).cumsum(1).flip(1) - ends.int()
        return last.masked_fill((later > 0).unsqueeze(-1), 0.0)

    def _past(self, x: Tensor, state: State | None) -> Tensor:
        shape = x.shape[0], self.width - 1, self.dim
        dtype = state_dtype(x.dtype)
        if state is None:
            return x.new_zeros(shape, dtype=dtype)
        (past,) = check_state(self, state, [shape])
        return past.to(dtype)
