"""Aaren, of "Attention as an RNN" (arXiv:2405.13956)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.scan import scan
from minrnn.scan.maximum import running_max

AarenState = tuple[Tensor, Tensor, Tensor]


@register("aaren")
class Aaren(SequenceMixer):
    """Attend from a learned query to all steps so far, by a softmax that is updated step by step.

    For each head, with s_t = q . W_k x_t / sqrt(d) and v_t = W_v x_t + b_v, d = dim / num_heads:
    m_t = max(m_{t-1}, s_t); c_t = e^{m_{t-1} - m_t} c_{t-1} + e^{s_t - m_t};
    a_t = e^{m_{t-1} - m_t} a_{t-1} + e^{s_t - m_t} v_t; o_t = a_t / c_t; y_t = W_o o_t + b_o.

    From the paper: the query that belongs to the layer and not to the input, and the recurrence,
    which it computes as a scan over (m, u, w), here a running maximum and two linear scans, finite
    for any s. W_k has no bias: it would cancel in the softmax. As q is the same at every step,
    forward reads scores with W_k^T q, and never forms a key. The state is (m (B, num_heads),
    c (B, num_heads), a (B, dim)); c is 0 before the first step, and at least 1 after it.

    >>> import torch
    >>> cell = Aaren(8, num_heads=2)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, [leaf.shape[1] for leaf in state]
    (torch.Size([2, 8]), [2, 2, 8])
    """

    def __init__(self, dim: int, *, num_heads: int = 1) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim {dim} cannot be split into {num_heads} heads; num_heads has to divide dim"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(num_heads, dim // num_heads))
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self._scale = (dim // num_heads) ** -0.5

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, AarenState]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        start = self._start(x, state, None if resets is None else resets[:, 0])
        m0, c0, a0 = start or (None, None, None)
        query = self.query.unsqueeze(-1) * self._scale
        weight = (self.key.weight.view(*self.query.shape, self.dim) * query).sum(1)
        dtype = state_dtype(self.query.dtype)
        s = nn.functional.linear(x, weight).to(dtype)
        v = cast(Tensor, self.value(x)).to(dtype)

        m, last = running_max(None, s, m0, resets)
        before = torch.cat([m[:, :1] if m0 is None else m0.unsqueeze(1), m[:, :-1]], 1)
        decay, enter = torch.exp(before - m), torch.exp(s - m)
        c, c_last = scan(decay, enter, c0, resets)
        wide = decay.unsqueeze(-1).expand(*decay.shape, self.query.shape[1]).flatten(2)
        a, a_last = scan(wide, self._scaled(v, enter), a0, resets)
        y = self.out((self._heads(a) / c.unsqueeze(-1)).flatten(-2).to(x.dtype))
        # One, but with a gradient: the scale of the returned state depends on the input.
        rescale = torch.exp(m[:, -1] - last)
        return y, (last, c_last * rescale, self._scaled(a_last, rescale))

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, AarenState]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        start = self._start(x, state, resets)
        dtype = state_dtype(self.query.dtype)
        keys = self._heads(self.key(x))
        s = (keys * (self.query * self._scale)).sum(-1).to(dtype)
        v = cast(Tensor, self.value(x)).to(dtype)
        if start is None:
            m, c, a = s, torch.ones_like(s), v
        else:
            m0, c0, a0 = start
            m = torch.maximum(m0, s)
            decay, enter = torch.exp(m0 - m), torch.exp(s - m)
            c = torch.addcmul(enter, decay, c0)
            a = self._scaled(a0, decay) + self._scaled(v, enter)
        y = self.out((self._heads(a) / c.unsqueeze(-1)).flatten(-2).to(x.dtype))
        return y, (m, c, a)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AarenState:
        """Return zeros: m and c (batch_size, num_heads), a (batch_size, dim)."""
        device, dtype = device or self.query.device, dtype or state_dtype(self.query.dtype)
        m, c, a = (
            torch.zeros(batch_size, width, device=device, dtype=dtype)
            for width in (self.num_heads, self.num_heads, self.dim)
        )
        return m, c, a

    def no_weight_decay(self) -> set[str]:
        """Return the name of the query."""
        return {"query"}

    def extra_repr(self) -> str:
        """Show the options in the module's printout."""
        return f"num_heads={self.num_heads}"

    def _start(self, x: Tensor, state: State | None, resets: Tensor | None) -> AarenState | None:
        # The state before x: cleared at resets, with m = -inf where the state is empty.
        if state is None:
            return None
        batch, heads = x.shape[0], self.num_heads
        shapes = ((batch, heads), (batch, heads), (batch, self.dim))
        dtype = state_dtype(self.query.dtype)
        m, c, a = (leaf.to(dtype) for leaf in check_state(self, state, shapes))
        if resets is not None:
            mask = resets.unsqueeze(-1)
            c, a = c.masked_fill(mask, 0.0), a.masked_fill(mask, 0.0)
        return m.masked_fill(c == 0, -torch.inf), c, a

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], *self.query.shape)  # (..., num_heads, d)

    def _scaled(self, x: Tensor, by: Tensor) -> Tensor:
        return (self._heads(x) * by.unsqueeze(-1)).flatten(-2)  # by: (..., num_heads)
