"""Causal attention over a window of steps, the mixer of the Decision Transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minrnn.checks import check_inputs, check_state
from minrnn.compiling import latest
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.sdpa import attend

POSITIONS = ("rotary", "learned", "none")


@register("attention")
class Attention(SequenceMixer):
    """Compute y_t = W_o sum_s softmax_s(q_t k_s / sqrt(d) + p_{t-s}) v_s over the last `window`
    steps s of the episode, own included, for each of `num_heads` heads of d = dim / num_heads.

    From the Decision Transformer (arXiv:2106.01345), which is GPT-2: the projections, with
    biases, and one head. `num_kv_heads` heads of keys and values, for groups of heads of queries
    (arXiv:2305.13245). Positions are relative, so that a state can be carried without end:
    "rotary" (RoPE, arXiv:2104.09864: q and k turned by the angles of their positions, halves
    paired as in Llama; needs an even d), "learned" (p, one number for each head and distance, from
    zero: the Decision Transformer's own are absolute), or "none". Rows are read in blocks of
    `window` queries and twice as many keys: O(T window) in time and memory.

    The state is (memory, count): the keys and values of the last window - 1 steps, old to new, the
    keys not turned yet, (B, window - 1, 2, num_kv_heads, d), zero where there is no step (a window
    of 1 keeps one empty slot); and how many there are, (B,).

    >>> import torch
    >>> cell = Attention(8, num_heads=2, window=4)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, (memory, count) = cell.step(torch.randn(2, 8), state)
    >>> y.shape, memory.shape, count.tolist()
    (torch.Size([2, 8]), torch.Size([2, 3, 2, 2, 4]), [3.0, 3.0])
    """

    ages: Tensor
    turns: Tensor

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        window: int = 64,
        positions: str = "rotary",
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or dim < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim {dim}, and {num_heads} does not")
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads {num_kv_heads} does not divide num_heads {num_heads}")
        if window < 1:
            raise ValueError(f"window must be at least 1, the step itself, not {window}")
        if positions not in POSITIONS:
            raise ValueError(f"no positions {positions!r}; there is {', '.join(POSITIONS)}")
        self.dim, self.width = dim, dim // num_heads
        if positions == "rotary" and self.width % 2:
            raise ValueError(
                f"rotary positions need an even width of a head, and dim {dim} over {num_heads} "
                f"heads is {self.width}; change num_heads, or positions to 'learned' or 'none'"
            )
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.window, self.positions = window, positions
        self.slots = max(window - 1, 1)
        self.block = max(window, 32)  # queries read at once; fewer leave matrix products idle
        self.qkv = nn.Linear(dim, (num_heads + 2 * num_kv_heads) * self.width)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(num_heads, window)) if positions == "learned" else None
        self.register_buffer("ages", torch.arange(self.slots, -1, -1), persistent=False)
        self.register_buffer("turns", self._turns(), persistent=False)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        batch, length, _ = x.shape
        if length == 1:
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        q, kv = self._project(x)
        memory, count = self._previous(x, state)
        if resets is not None:
            count = count.masked_fill(resets[:, 0], 0.0)
        # For each step, the first step of its episode, counted from the start of x.
        first = -count.round().long().unsqueeze(1)
        steps = torch.arange(length, device=x.device)
        if resets is None:
            first = first.expand(batch, length)
        else:
            first = latest(torch.where(resets, steps, first))
        new = self._remember(memory, kv, first[:, -1:])

        size = min(length, self.block)
        blocks = -(-length // size)
        past = 0 if state is None and blocks == 1 else self.slots
        start = torch.maximum(first, steps - (self.window - 1))
        if blocks > 1:
            extra = blocks * size - length
            q, kv = (F.pad(z, (0, 0) * (z.dim() - 2) + (0, extra)) for z in (q, kv))
            start = F.pad(start, (0, extra))
        start = start.view(batch, blocks, size) - size * torch.arange(
            blocks, device=x.device
        ).unsqueeze(1)
        q = q.view(batch, blocks, size, *q.shape[2:])
        kv = kv.view(batch, blocks, size, *kv.shape[2:])
        if past:  # the last steps before each block
            before = memory.unsqueeze(1).to(kv.dtype)
            if blocks > 1:
                before = torch.cat([before, kv[:, :-1, size - past :]], 1)
            kv = torch.cat([before, kv], 2)
        y = self._attend(q.flatten(0, 1), kv.flatten(0, 1), start.flatten(0, 1))
        y = y.view(batch, blocks * size, self.dim)[:, :length]
        return cast(Tensor, self.out(y.to(x.dtype))), new

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        q, kv = self._project(x.unsqueeze(1))
        memory, count = self._previous(x, state)
        if resets is not None and state is not None:
            count = count.masked_fill(resets, 0.0)
        count = count.round()
        line = torch.cat([memory, kv.to(memory.dtype)], 1)
        seen = self.ages <= count.unsqueeze(1)
        line = line.masked_fill_(~seen.view(-1, self.slots + 1, 1, 1, 1), 0.0)
        q = q.to(line.dtype)
        k, v = line.unbind(2)
        if self.positions == "rotary":
            k = _turn(k, self.turns[:, : self.slots + 1])  # q is at 0: no rotation
        mask = seen.view(-1, 1, 1, self.slots + 1)
        if self.bias is not None:
            bias = self.bias[:, self.ages.clamp(max=self.window - 1)].to(q.dtype)
            bias = bias.view(self.num_kv_heads, -1, self.slots + 1)
            mask = torch.where(mask, bias, -torch.inf)
        # The queries of a group, side by side, as if they were those of several steps.
        q = q.view(x.shape[0], self.num_kv_heads, self.num_heads // self.num_kv_heads, self.width)
        y = attend(q, k.transpose(1, 2), v.transpose(1, 2), mask)
        y = cast(Tensor, self.out(y.reshape(x.shape[0], self.dim).to(x.dtype)))
        line = line[:, 1:] if self.window > 1 else torch.zeros_like(memory)
        return y, (line, (count + 1).clamp(max=self.window - 1))

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return an empty memory (batch_size, window - 1, 2, num_kv_heads, d) and count, zero."""
        like = self.qkv.weight
        shape = (batch_size, self.slots, 2, self.num_kv_heads, self.width)
        memory = torch.zeros(
            shape, device=device or like.device, dtype=dtype or state_dtype(like.dtype)
        )
        return memory, memory.new_zeros(batch_size)

    def no_weight_decay(self) -> set[str]:
        """Return the name of the learned positions, if there are any."""
        return set() if self.bias is None else {"bias"}

    def extra_repr(self) -> str:
        """Show the options in the module's printout."""
        return (
            f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"window={self.window}, positions={self.positions!r}"
        )

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # q (B, T, num_heads, d) and kv (B, T, 2, num_kv_heads, d).
        q, kv = self.qkv(x).split([self.dim, 2 * self.num_kv_heads * self.width], -1)
        return (
            q.view(*x.shape[:2], self.num_heads, self.width),
            kv.view(*x.shape[:2], 2, self.num_kv_heads, self.width),
        )

    def _previous(self, x: Tensor, state: State | None) -> tuple[Tensor, Tensor]:
        if state is None:
            return self.initial_state(x.shape[0], x.device)
        shape = (x.shape[0], self.slots, 2, self.num_kv_heads, self.width)
        memory, count = check_state(self, state, [shape, (x.shape[0],)])
        dtype = state_dtype(self.qkv.weight.dtype)
        return memory.to(dtype), count.to(dtype)

    def _remember(self, memory: Tensor, kv: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        # The state after the steps of kv. first (B, 1): where the episode of the last one starts.
        length = kv.shape[1]
        line = kv[:, -self.slots :].to(memory.dtype)
        if length < self.slots:
            line = torch.cat([memory[:, length:], line], 1)
        count = (length - first).clamp(max=self.window - 1)
        live = self.ages[1:] < count
        line = torch.where(live.view(*live.shape, 1, 1, 1), line, 0.0)
        return line, count.squeeze(1).to(memory.dtype)

    def _attend(self, q: Tensor, kv: Tensor, start: Tensor) -> Tensor:
        # q (N, Q, num_heads, d), kv (N, P + Q, 2, num_kv_heads, d), of the P steps before, too.
        # start (N, Q): the first step that each query sees, from the first query on.
        rows, size, _, _ = q.shape
        past = kv.shape[1] - size
        ages = torch.arange(size, device=q.device).unsqueeze(1) - torch.arange(
            -past, size, device=q.device
        )
        seen = (torch.arange(-past, size, device=q.device) >= start.unsqueeze(-1)) & (ages >= 0)
        # 0 * NaN is NaN: non-finite values are taken out, and put back for the steps that see them.
        spoilt = ~kv.detach().sum((2, 3, 4), dtype=state_dtype(kv.dtype)).isfinite()
        kv = torch.where(spoilt.view(*spoilt.shape, 1, 1, 1), 0.0, kv)
        struck = (seen & spoilt.unsqueeze(1)).any(-1)
        q = q.masked_fill(struck[..., None, None], 0.0)

        k, v = kv.unbind(2)
        if self.positions == "rotary":
            q, k = (
                _turn(q, self.turns[:, past : past + size]),
                _turn(k, self.turns[:, : past + size]),
            )
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        if self.num_kv_heads < self.num_heads:
            groups = self.num_heads // self.num_kv_heads
            k, v = (z.repeat_interleave(groups, 1) for z in (k, v))
        mask = seen.unsqueeze(1)
        if self.bias is not None:
            bias = self.bias[:, ages.clamp(0, self.window - 1)].to(q.dtype)
            mask = torch.where(mask, bias, -torch.inf)
        y = attend(q, k, v, mask)
        y = y.transpose(1, 2).reshape(rows, size, self.dim)
        return y.masked_fill(struck.unsqueeze(-1), torch.nan)

    def _turns(self) -> Tensor:
        # Cosines and sines (2, positions, 1, d / 2) from position -slots on; made anew for each
        # dtype, as those of float32 are no use in float64.
        like = self.qkv.weight
        if self.positions != "rotary":
            return like.new_empty(0)
        rates = 10000.0 ** -torch.arange(0, 1, 2 / self.width, dtype=torch.float64)
        angles = torch.arange(-self.slots, self.block, dtype=torch.float64).view(-1, 1, 1) * rates
        return torch.stack([angles.cos(), angles.sin()]).to(like.device, state_dtype(like.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Attention:
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        self.turns = self._turns()
        return self


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    # x (N, T, heads, d): turn the pairs (x_i, x_{i + d/2}) by the angles of (2, T, 1, d / 2).
    cos, sin = turns.unbind(0)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
