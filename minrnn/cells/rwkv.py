"""RWKV-4's time mixing, of "RWKV: Reinventing RNNs for the Transformer Era" (arXiv:2305.13048)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.scan.wkv import shifted, wkv_scan, wkv_step

RWKVState = tuple[Tensor, Tensor, Tensor, Tensor]


@register("rwkv")
class RWKV(SequenceMixer):
    """Average values with weights e^k that decay by a constant for each channel.

    With x'_t = mu x_t + (1 - mu) x_{t-1}, another mu for each of k = W_k x', v = W_v x',
    r = W_r x', and w = -exp(decay), u = bonus, in channels of `dim * expansion`:
    q = max(p_{t-1}, u + k);
    o_t = (e^{p_{t-1} - q} a_{t-1} + e^{u + k - q} v) / (e^{p_{t-1} - q} b_{t-1} + e^{u + k - q});
    p_t = max(p_{t-1} + w, k); a_t = e^{p_{t-1} + w - p_t} a_{t-1} + e^{k - p_t} v, b_t likewise
    without v; y_t = W_o (sigmoid(r) o_t).

    From BlinkDL/RWKV-LM (RWKV-4): the equations, no biases, and the start of mu, decay and bonus
    in its first layer, as a cell does not know its layer. Its matrices start as
    torch's do. Its channel mixing is left to the block's MLP. The state is (x_{t-1} (B, dim), and
    a, b, p (B, hidden)); b is 0 before the first step, and at least 1 after it. x_{t-1} is kept
    in float32, as all of it.

    >>> import torch
    >>> cell = RWKV(8)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, len(state)
    (torch.Size([2, 8]), 4)
    """

    def __init__(self, dim: int, *, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(dim * expansion)
        if dim < 1 or hidden < 1:
            raise ValueError(f"dim {dim} with expansion {expansion} leaves no hidden units")
        self.dim = dim
        self.hidden = hidden
        self.key = nn.Linear(dim, hidden, bias=False)
        self.value = nn.Linear(dim, hidden, bias=False)
        self.receptance = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)
        place = torch.arange(dim) / dim
        self.mix_key = nn.Parameter(place.clone())
        self.mix_value = nn.Parameter(place.clone())
        self.mix_receptance = nn.Parameter(place.sqrt())
        channel = torch.arange(hidden)
        self.decay = nn.Parameter(8 * (channel / max(hidden - 1, 1)) ** 0.7 - 5)
        zigzag = 0.5 * ((channel + 1) % 3 - 1)
        self.bonus = nn.Parameter(zigzag + torch.tensor(0.3).log())

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, RWKVState]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        first, *rest = self._start(x, state, None if resets is None else resets[:, 0])
        k, v, r = self._project(x, shifted(x, first.to(x.dtype), resets))
        o, last = wkv_scan(k, v, *self._rates(k.dtype), torch.stack(rest, 1), resets)
        a, b, p = last.unbind(1)
        return self._output(o, r, x), (x[:, -1].to(k.dtype), a, b, p)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, RWKVState]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        first, *rest = self._start(x, state, resets)
        k, v, r = self._project(x, first.to(x.dtype))
        o, a, b, p = wkv_step(k, v, *self._rates(k.dtype), *rest)
        return self._output(o, r, x), (x.to(k.dtype), a, b, p)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RWKVState:
        """Return zeros: x (batch_size, dim), then a, b and p (batch_size, hidden)."""
        device, dtype = device or self.decay.device, dtype or state_dtype(self.decay.dtype)
        x, a, b, p = (
            torch.zeros(batch_size, width, device=device, dtype=dtype)
            for width in (self.dim, self.hidden, self.hidden, self.hidden)
        )
        return x, a, b, p

    def no_weight_decay(self) -> set[str]:
        """Return the names of all parameters that are not matrices."""
        return {"mix_key", "mix_value", "mix_receptance", "decay", "bonus"}

    def _start(self, x: Tensor, state: State | None, resets: Tensor | None) -> RWKVState:
        # The state before x.
        if state is None:
            return self.initial_state(x.shape[0], x.device)
        shapes = [(x.shape[0], self.dim), *[(x.shape[0], self.hidden)] * 3]
        dtype = state_dtype(self.decay.dtype)
        old, a, b, p = (leaf.to(dtype) for leaf in check_state(self, state, shapes))
        if resets is not None:
            mask = resets.unsqueeze(-1)
            old, a, b, p = (leaf.masked_fill(mask, 0.0) for leaf in (old, a, b, p))
        return old, a, b, p

    def _project(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # k and v in the dtype of the state, r in that of x.
        change, dtype = x - before, state_dtype(self.decay.dtype)
        k = self.key(torch.addcmul(before, change, self.mix_key))
        v = self.value(torch.addcmul(before, change, self.mix_value))
        r = self.receptance(torch.addcmul(before, change, self.mix_receptance))
        return cast(Tensor, k).to(dtype), cast(Tensor, v).to(dtype), cast(Tensor, r)

    def _rates(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return -torch.exp(self.decay.to(dtype)), self.bonus.to(dtype)

    def _output(self, o: Tensor, r: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.out((torch.sigmoid(r) * o).to(x.dtype)))
