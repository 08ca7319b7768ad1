"""mLSTM, of "xLSTM: Extended Long Short-Term Memory" (arXiv:2405.04517)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state, spoilt
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.scan import scan
from minrnn.scan.maximum import running_max

MLSTMState = tuple[Tensor, Tensor, Tensor]

CHUNK = 64  # steps of a chunk attend to each other directly; the state links chunks
EPSILON = 1e-6  # in the denominator


@register("mlstm")
class MLSTM(SequenceMixer):
    """Write v k^T into a matrix for each head, with exponential gates, and read it with q.

    For each head of d = dim / num_heads channels, i and f one number each:
    m_t = max(log sigmoid(f_t) + m_{t-1}, i_t); f' = e^{log sigmoid(f_t) + m_{t-1} - m_t};
    i' = e^{i_t - m_t}; C_t = f' C_{t-1} + i' k_t v_t^T / sqrt(d);
    n_t = f' n_{t-1} + i' k_t / sqrt(d); h_t = C_t^T q_t / (max(|n_t . q_t|, e^{-m_t}) + 1e-6);
    y_t = W (sigmoid(W_o x_t) * norm(h_t)).

    From the paper: these equations, with q, k, v, i, f all linear in x. From NX-AI/xlstm: 1e-6;
    the layer norm of each head by itself, with a weight and no bias; gates that start from zero
    weights, the bias of f from 3 to 6 over the heads, that of i about 0.1 in size. The layer is
    that of its large model: an output gate and a projection around the cell, no biases but those
    of i and f; without soft capping. Left out: what its first block has around the cell, a
    projection to twice the width, a convolution before q and k, a skip connection.

    Computed in chunks of up to 64 steps: products of matrices inside, a scan over what each
    chunk adds to the state. The state is (C (B, num_heads, d, d), n (B, num_heads, d),
    m (B, num_heads)), all zero before the first step.

    >>> import torch
    >>> cell = MLSTM(8, num_heads=2)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, state[0].shape
    (torch.Size([2, 8]), torch.Size([2, 2, 4, 4]))
    """

    def __init__(self, dim: int, *, num_heads: int = 4) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim {dim} cannot be split into {num_heads} heads; num_heads has to divide dim"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.input_gate = nn.Linear(dim, num_heads)
        self.forget_gate = nn.Linear(dim, num_heads)
        self.output_gate = nn.Linear(dim, dim, bias=False)
        self.norm = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.input_gate.weight)
        nn.init.zeros_(self.forget_gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        with torch.no_grad():
            self.forget_gate.bias.copy_(torch.linspace(3.0, 6.0, num_heads))

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, MLSTMState]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        start = self._start(x, state, None if resets is None else resets[:, 0])
        # Masked matrix products would spread NaN to other steps and episodes.
        bad = ~x.detach().sum(-1, dtype=state_dtype(x.dtype)).isfinite()
        x = x.masked_fill(bad.unsqueeze(-1), 0.0)
        q, k, v, i, f = self._project(x)
        with torch.autocast(x.device.type, enabled=False):
            h, new = _chunkwise(q, k, v, i, F.logsigmoid(f), start, resets)
        h, new = _spoil(h, new, bad, resets)
        return self._output(h, x), new

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, MLSTMState]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        c0, n0, m0 = self._start(x, state, resets)
        q, k, v, i, f = self._project(x)
        carried = F.logsigmoid(f) + m0
        m = torch.maximum(carried, i)
        forget, enter = torch.exp(carried - m), torch.exp(i - m)
        k = enter.unsqueeze(-1) * k
        n = torch.addcmul(k, forget.unsqueeze(-1), n0)
        c = torch.addcmul(k.unsqueeze(-1) * v.unsqueeze(-2), forget.unsqueeze(-1).unsqueeze(-1), c0)
        h = (q.unsqueeze(-1) * c).sum(-2)
        h = h / _denominator((q * n).sum(-1), m).unsqueeze(-1)
        return self._output(h, x), (c, n, m)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MLSTMState:
        """Return zeros: C, n and m of each head."""
        like = self.norm
        device, dtype = device or like.device, dtype or state_dtype(like.dtype)
        c, n, m = (
            torch.zeros(shape, device=device, dtype=dtype) for shape in self._shapes(batch_size)
        )
        return c, n, m

    def no_weight_decay(self) -> set[str]:
        """Return the names of the biases and of the norm's weight."""
        return {"input_gate.bias", "forget_gate.bias", "norm"}

    def extra_repr(self) -> str:
        """Show the options in the module's printout."""
        return f"num_heads={self.num_heads}"

    def _shapes(self, batch: int) -> tuple[tuple[int, ...], ...]:
        heads, size = self.num_heads, self.dim // self.num_heads
        return (batch, heads, size, size), (batch, heads, size), (batch, heads)

    def _start(self, x: Tensor, state: State | None, resets: Tensor | None) -> MLSTMState:
        # The state before x.
        if state is None:
            return self.initial_state(x.shape[0], x.device)
        dtype = state_dtype(self.norm.dtype)
        c, n, m = (leaf.to(dtype) for leaf in check_state(self, state, self._shapes(x.shape[0])))
        if resets is not None:
            mask = resets.view(-1, 1)
            c = c.masked_fill(mask[..., None, None], 0.0)
            n, m = n.masked_fill(mask[..., None], 0.0), m.masked_fill(mask, 0.0)
        return c, n, m

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        # q, k, v (..., num_heads, d), k over sqrt(d), i and f (..., num_heads).
        dtype = state_dtype(self.norm.dtype)
        size = self.dim // self.num_heads
        q, k, v = (
            cast(Tensor, linear(x)).to(dtype).view(*x.shape[:-1], self.num_heads, size)
            for linear in (self.query, self.key, self.value)
        )
        i, f = (cast(Tensor, linear(x)).to(dtype) for linear in (self.input_gate, self.forget_gate))
        return q, k * size**-0.5, v, i, f

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        # h: (..., num_heads, d).
        h = F.layer_norm(h, h.shape[-1:]).flatten(-2) * self.norm
        gated = torch.sigmoid(cast(Tensor, self.output_gate(x))) * h
        return cast(Tensor, self.out(gated.to(x.dtype)))


def _denominator(reading: Tensor, m: Tensor) -> Tensor:
    # e^80 in place of what float32 cannot hold: the quotient is zero either way. But for
    # the 1e-6, next to numbers near one, and before a norm, the scale m cancels.
    return torch.maximum(reading.abs(), torch.exp(-m.clamp(min=-80.0))) + EPSILON


def _chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    start: MLSTMState,
    resets: Tensor | None,
) -> tuple[Tensor, MLSTMState]:
    # q, k, v: (B, T, H, d), k already over sqrt(d). i, f: (B, T, H), f the logarithm of the gate.
    # Returns h (B, T, H, d) and the state. N chunks of L steps, the last one filled up.
    c0, n0, m0 = start
    batch, length = q.shape[:2]
    many = -(-length // CHUNK)
    each = -(-length // many)
    fill = many * each - length

    # An episode starts from m = 0, which decays: m is at least what is left of it.
    seen = i if resets is None else torch.where(resets.unsqueeze(-1), torch.maximum(i, f), i)
    m, last = running_max(f, seen, m0, resets)
    # m before and after each chunk, (B, H, N, 1).
    inner = m[:, each - 1 : -1 : each]
    ends = torch.cat([m0.unsqueeze(1), inner], 1).transpose(1, 2).unsqueeze(-1)
    after = torch.cat([inner, m[:, -1:]], 1).transpose(1, 2).unsqueeze(-1)
    m = torch.cat([m, m[:, -1:].expand(-1, fill, -1)], 1)

    def chunks(x: Tensor, value: float = 0.0) -> Tensor:
        # (B, T, H, ...) -> (B, H, N, L, ...)
        rest = many * each - x.shape[1]
        if rest:
            x = torch.cat([x, x.new_full((batch, rest, *x.shape[2:]), value)], 1)
        x = x.view(batch, many, each, *x.shape[2:])
        return x.permute(0, 3, 1, 2, *range(4, x.dim()))

    # Copied once, not in each product.
    q, k, v = chunks(q).contiguous(), chunks(k).contiguous(), chunks(v)
    v = torch.cat([v, v.new_ones((*v.shape[:-1], 1))], -1)
    i, m = chunks(i, -torch.inf), chunks(m)
    # Only differences of these sums are used; they are taken before rounding.
    sums = chunks(f)
    sums = sums.to(sums.dtype if sums.is_mps else torch.float64).cumsum(-1)
    total = sums[..., -1:]

    causal = torch.ones(each, each, dtype=torch.bool, device=q.device).tril()
    alive = None  # (B, 1, N, L): no reset in the chunk up to this step
    ending = None  # (B, 1, N, L): of the last episode of the chunk
    if resets is not None:
        marks = torch.cat([resets, resets.new_zeros(batch, fill)], 1).view(batch, 1, many, each)
        episode = marks.cumsum(-1)
        causal = causal & (episode.unsqueeze(-1) == episode.unsqueeze(-2))
        alive, ending = episode == 0, episode == episode[..., -1:]

    def gate(x: Tensor, mask: Tensor | None) -> Tensor:
        # The exponential, 0 where the mask is not set, and so is its gradient.
        x = x.to(q.dtype)
        return torch.exp(x if mask is None else x.masked_fill(~mask, -torch.inf))

    # Inside the chunks. The last channel of what is read is that of n.
    weight = gate((sums - m).unsqueeze(-1) + (i - sums).unsqueeze(-2), causal)
    read = (q @ k.transpose(-1, -2) * weight) @ v
    # What each chunk adds to the state, and the scan over chunks: (B, N, H, d, d + 1).
    write = gate(total - sums + (i - after), ending)
    added = ((k * write.unsqueeze(-1)).transpose(-1, -2) @ v).transpose(1, 2)
    keep = gate(total + (ends - after), None if alive is None else alive[..., -1:])
    keep = keep.transpose(1, 2).unsqueeze(-1).expand_as(added)
    begun = torch.cat([c0, n0.unsqueeze(-1)], -1)
    cut = None if alive is None else ~alive[:, 0, :, -1]
    memory, final = scan(keep.flatten(2), added.flatten(2), begun.flatten(1), cut)
    memory = torch.cat([begun.unsqueeze(1), memory.view_as(added)[:, :-1]], 1)
    # From the state before each chunk.
    held = q @ memory.transpose(1, 2) * gate(sums + (ends - m), alive).unsqueeze(-1)
    if alive is not None:
        held = held.masked_fill(~alive.unsqueeze(-1), 0.0)
    read = read + held
    h = read[..., :-1] / _denominator(read[..., -1], m).unsqueeze(-1)
    h = h.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]
    # One, but with a gradient: the scale of the returned state depends on the input.
    rescale = torch.exp(after[..., -1, 0] - last).unsqueeze(-1)
    final = final.view_as(begun) * rescale.unsqueeze(-1)
    return h, (final[..., :-1], final[..., -1], last)


def _spoil(
    h: Tensor, state: MLSTMState, bad: Tensor, resets: Tensor | None
) -> tuple[Tensor, MLSTMState]:
    # NaN from each step whose input is not finite to the end of its episode. bad: (B, T).
    steps = spoilt(bad, resets)
    h = h.masked_fill(steps[..., None, None], torch.nan)
    rows = steps[:, -1:]
    c, n, m = state
    c = c.masked_fill(rows[..., None, None], torch.nan)
    return h, (c, n.masked_fill(rows[..., None], torch.nan), m.masked_fill(rows, torch.nan))
