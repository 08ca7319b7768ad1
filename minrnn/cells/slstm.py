"""sLSTM, of "xLSTM: Extended Long Short-Term Memory" (arXiv:2405.04517)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.scan.slstm import slstm_scan, slstm_step


@register("slstm")
class SLSTM(SequenceMixer):
    """Run an LSTM with exponential gates and recurrent weights within each head.

    i, f, z, o = W x_t + R y_{t-1} + b, with R one square for each gate and head;
    m_t = max(i, log sigmoid(f) + m_{t-1}); i' = e^{i - m_t};
    f' = e^{log sigmoid(f) + m_{t-1} - m_t};
    c_t = f' c_{t-1} + i' tanh(z); n_t = f' n_{t-1} + i'; y_t = sigmoid(o) c_t / n_t.
    Out comes norm(y_t).

    From the paper: these equations, with a sigmoid for the forget gate. From NX-AI/xlstm: the
    layer norm of each head by itself, with a weight and no bias; m_1 = i at the first step; R
    starts at zero, W small, b at zero but for f, from 3 to 6 over a head (its "small_init").
    Different: W is full, where theirs is as blocked as R. Left out: the convolution before i and
    f, and what their block has after the cell, which is a gated MLP. Every step waits for the one
    before: compiled on a CPU, a loop over T elsewhere. The state is (y, c, n, m), each (B, dim);
    n is 0 before the first step, and at least 1 after it.

    >>> import torch
    >>> cell = SLSTM(8, num_heads=2)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, len(state)
    (torch.Size([2, 8]), 4)
    """

    def __init__(self, dim: int, *, num_heads: int = 4) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim {dim} cannot be split into {num_heads} heads; num_heads has to divide dim"
            )
        self.dim = dim
        self.num_heads = num_heads
        size = dim // num_heads
        self.input = nn.Linear(dim, 4 * dim)  # for each head i, f, z, o
        self.recurrent = nn.Parameter(torch.zeros(num_heads, size, 4, size))
        self.norm = nn.Parameter(torch.ones(dim))
        nn.init.normal_(self.input.weight, std=(2 / (5 * dim)) ** 0.5)
        nn.init.zeros_(self.input.bias)
        with torch.no_grad():
            self.input.bias.view(num_heads, 4, size)[:, 1] = torch.linspace(3.0, 6.0, size)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        start = self._start(x, state, None if resets is None else resets[:, 0])
        gates = self._project(x)
        with torch.autocast(x.device.type, enabled=False):
            y, last = slstm_scan(gates, self._matrix(), start, resets)
        return self._output(y, x), self._leaves(last)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        start = self._start(x, state, resets)
        gates = self._project(x)
        with torch.autocast(x.device.type, enabled=False):
            new = slstm_step(gates, self._matrix(), start)
        return self._output(new[:, 0], x), self._leaves(new)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, ...]:
        """Return zeros: y, c, n and m, each (batch_size, dim)."""
        like = self.norm
        device, dtype = device or like.device, dtype or state_dtype(like.dtype)
        return tuple(torch.zeros(batch_size, self.dim, device=device, dtype=dtype) for _ in "ycnm")

    def no_weight_decay(self) -> set[str]:
        """Return the names of the biases and of the norm's weight."""
        return {"input.bias", "norm"}

    def extra_repr(self) -> str:
        """Show the options in the module's printout."""
        return f"num_heads={self.num_heads}"

    def _start(self, x: Tensor, state: State | None, resets: Tensor | None) -> Tensor:
        # The state before x, (B, 4, H, d).
        leaves = list(self.initial_state(x.shape[0], x.device))
        if state is not None:
            leaves = check_state(self, state, [(x.shape[0], self.dim)] * 4)
        start = torch.stack(leaves, 1).to(state_dtype(self.norm.dtype))
        start = start.view(x.shape[0], 4, self.num_heads, self.dim // self.num_heads)
        return start if resets is None else start.masked_fill(resets.view(-1, 1, 1, 1), 0.0)

    def _leaves(self, state: Tensor) -> tuple[Tensor, ...]:
        return state.flatten(2).unbind(1)

    def _project(self, x: Tensor) -> Tensor:
        gates = cast(Tensor, self.input(x)).to(state_dtype(self.norm.dtype))
        return gates.view(*x.shape[:-1], self.num_heads, 4, self.dim // self.num_heads)

    def _matrix(self) -> Tensor:
        return self.recurrent.to(state_dtype(self.norm.dtype))

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        # y: (..., num_heads, d).
        normed = F.layer_norm(y, y.shape[-1:]).flatten(-2)
        return (normed * self.norm).to(x.dtype)
