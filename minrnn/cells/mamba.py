"""Mamba, of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.conv import ShortConv
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.scan.selective import selective_scan


@register("mamba")
class Mamba(SequenceMixer):
    """Compute y = W_out (s * silu(z)) with (v, z) = W_in x, u = silu(conv(v)),
    (d, B, C) = W_x u, dt = softplus(W_dt d + b_dt), A = -exp(A_log), and, channel by channel,
    h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t, s_t = C_t h_t + D u_t.

    From arXiv:2312.00752 and `Mamba` in state-spaces/mamba: all of it, its sizes (`expand`,
    d_state, d_conv, dt_rank = ceil(dim / 16), which 0 stands for) and initialisation: A_log =
    log(1 .. d_state), D = 1, b_dt such that dt is log-uniform in [dt_min, dt_max]; no weight
    decay on A_log and D. dt, h and the sums over it are float32 whatever the dtype of x. The
    state is (that of the `ShortConv`, (B, d_conv - 1, inner), and h, (B, inner, d_state)), with
    inner = expand * dim.

    >>> import torch
    >>> cell = Mamba(8)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, (past, h) = cell.step(torch.randn(2, 8), state)
    >>> y.shape, past.shape, h.shape
    (torch.Size([2, 8]), torch.Size([2, 3, 16]), torch.Size([2, 16, 16]))
    """

    def __init__(
        self,
        dim: int,
        *,
        expand: float = 2.0,
        d_state: int = 16,
        d_conv: int = 4,
        dt_rank: int = 0,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        inner = round(expand * dim)
        if dim < 1 or inner < 1:
            raise ValueError(f"dim {dim} with expand {expand} leaves no channels")
        if d_state < 1:
            raise ValueError(f"d_state must be at least 1, not {d_state}")
        if dt_rank < 0:
            raise ValueError(f"dt_rank must be positive, or 0 for dim / 16, not {dt_rank}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"0 < dt_min <= dt_max must hold, not {dt_min}, {dt_max}")
        self.dim = dim
        self.inner = inner
        self.d_state = d_state
        self.dt_rank = rank = dt_rank or math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = ShortConv(inner, d_conv)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
            dt = torch.empty(inner).uniform_(math.log(dt_min), math.log(dt_max)).exp()
            self.dt_proj.bias.copy_(dt + (-torch.expm1(-dt)).log())  # softplus gives dt

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        past, h = self._checked(x, state)
        v, z = self.in_proj(x).chunk(2, -1)
        u, past = cast("tuple[Tensor, Tensor]", self.conv(v, past, resets))
        u = F.silu(u)
        dt, b, c = self._selection(u)
        a = -self.A_log.to(dt.dtype).exp()
        s, h = selective_scan(u.to(dt.dtype), dt, a, b, c, h, resets)
        return self._output(s, u, z, x), (past, h)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        past, h = self._checked(x, state)
        v, z = self.in_proj(x).chunk(2, -1)
        u, past = self.conv.step(v, past, resets)
        u = F.silu(u)
        dt, b, c = self._selection(u)
        entering = (dt * u).unsqueeze(-1) * b.unsqueeze(1)
        if h is not None:
            if resets is not None:
                h = h.masked_fill(resets[:, None, None], 0.0)
            a = -self.A_log.to(dt.dtype).exp()
            entering = torch.addcmul(entering, (dt.unsqueeze(-1) * a).exp(), h)
        s = (entering * c.unsqueeze(1)).sum(-1)
        return self._output(s, u, z, x), (past, entering)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return zeros (batch_size, d_conv - 1, inner) and (batch_size, inner, d_state)."""
        like = self.D
        h = torch.zeros(
            batch_size,
            self.inner,
            self.d_state,
            device=device or like.device,
            dtype=dtype or state_dtype(like.dtype),
        )
        return self.conv.initial_state(batch_size, device, dtype), h

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters of A and D."""
        return {"A_log", "D"}

    def extra_repr(self) -> str:
        """Show the sizes in the module's printout."""
        return f"d_state={self.d_state}, dt_rank={self.dt_rank}"

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # dt (..., inner), B and C (..., d_state), in the dtype of a state.
        dtype = state_dtype(u.dtype)
        sizes = [self.dt_rank, self.d_state, self.d_state]
        low, b, c = self.x_proj(u).split(sizes, -1)
        dt = F.softplus(self.dt_proj(low).to(dtype))
        return dt, b.to(dtype), c.to(dtype)

    def _output(self, s: Tensor, u: Tensor, z: Tensor, x: Tensor) -> Tensor:
        s = torch.addcmul(s, u.to(s.dtype), self.D.to(s.dtype)).to(z.dtype)
        return self.out_proj(s * F.silu(z)).to(x.dtype)

    def _checked(self, x: Tensor, state: State | None) -> tuple[Tensor | None, Tensor | None]:
        if state is None:
            return None, None
        batch = x.shape[0]
        shapes = (batch, self.conv.width - 1, self.inner), (batch, self.inner, self.d_state)
        past, h = check_state(self, state, shapes)
        return past, h.to(state_dtype(x.dtype))
