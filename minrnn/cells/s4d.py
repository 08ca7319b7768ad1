"""S4D, of "On the Parameterization and Initialization of Diagonal State Space Models"."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.derivatives import transformed
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.registry import register
from minrnn.scan.diagonal import diagonal_scan


@register("s4d")
class S4D(SequenceMixer):
    """Compute h_t = exp(dt A) h_{t-1} + x_t, a vector of complex numbers for each channel, and
    y_t = GLU(W GELU(2 Re(C (exp(dt A) - 1) / A h_t) + D x_t)).

    From arXiv:2206.11893 and `models/s4/s4d.py` of state-spaces/s4: A = -exp(log_A_real) +
    i A_imag, from -1/2 + i pi n (S4D-Lin), in d_state / 2 conjugate pairs, of which one is kept;
    the zero-order hold; dt log-uniform in [dt_min, dt_max], one a channel; C and D normal; GELU,
    and the projection that mixes channels, with its GLU; no weight decay on A and dt. Left out:
    a dropout of its own before the projection (a `Block` has one), and learning rates of their
    own for A and dt. exp(dt A) - 1 keeps its digits where dt is small. The state is h, its real
    and imaginary parts, (B, dim, d_state / 2, 2).

    >>> import torch
    >>> cell = S4D(8, d_state=16)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, state.shape
    (torch.Size([2, 8]), torch.Size([2, 8, 8, 2]))
    """

    def __init__(
        self, dim: int, *, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 1e-1
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}")
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state counts conjugate pairs twice: it is even, not {d_state}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"0 < dt_min <= dt_max must hold, not {dt_min}, {dt_max}")
        self.dim = dim
        self.pairs = pairs = d_state // 2
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = nn.Parameter(torch.empty(dim).uniform_(low, high))
        self.log_A_real = nn.Parameter(torch.full((dim, pairs), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(pairs).float().repeat(dim, 1))
        # Both parts of a complex normal number.
        self.C = nn.Parameter(torch.randn(dim, pairs, 2) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(dim))
        self.out = nn.Linear(dim, 2 * dim)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if x.shape[1] == 1:
            y, h = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), h
        h = None if state is None else self._checked(x, state)
        u = x.to(state_dtype(x.dtype))
        y, h = diagonal_scan(u, *self._system(u.dtype), h, resets)
        return self._output(y, u, x), h

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        u = x.to(state_dtype(x.dtype))
        decay, _, _, weight = self._system(u.dtype)
        h = F.pad(u[..., None, None].expand(*u.shape, self.pairs, 1), (0, 1))
        if state is not None:
            before = self._checked(x, state)
            if resets is not None:
                before = before.masked_fill(resets[:, None, None, None], 0.0)
            real, imag = before.unbind(-1)
            turned = torch.stack([-imag, real], -1)  # times i
            h = torch.addcmul(h, before, decay[..., :1])
            h = torch.addcmul(h, turned, decay[..., 1:])
        y = (h[..., 0] * weight[..., 0] - h[..., 1] * weight[..., 1]).sum(-1)
        return self._output(y, u, x), h

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return zeros (batch_size, dim, d_state / 2, 2)."""
        like = self.D
        return torch.zeros(
            batch_size,
            self.dim,
            self.pairs,
            2,
            device=device or like.device,
            dtype=dtype or state_dtype(like.dtype),
        )

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters of A and dt."""
        return {"log_dt", "log_A_real", "A_imag"}

    def extra_repr(self) -> str:
        """Show the size of the state in the module's printout."""
        return f"d_state={2 * self.pairs}"

    def _system(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # exp(dt A) (D, N, 2); the real and the imaginary part of dt A, (D, N) each; and
        # 2 C (exp(dt A) - 1) / A.
        dt = self.log_dt.to(dtype).exp().unsqueeze(-1)
        a = -self.log_A_real.to(dtype).exp()
        b = self.A_imag.to(dtype)
        # Angles may pass ten radians: rounded first, they would lose digits of the sine.
        wide = dtype if dt.device.type == "mps" else torch.float64
        angle = dt.to(wide) * b.to(wide)
        angle = (angle - 2 * math.pi * (angle / (2 * math.pi)).round()).to(dtype)
        rate = dt * a
        size, sine = rate.exp(), angle.sin()
        imag = size * sine
        decay = torch.stack([size * angle.cos(), imag], -1)
        # exp - 1, real part: cos - 1 is -2 sin^2 of the half.
        half = (0.5 * angle).sin()
        less = torch.addcmul(torch.expm1(rate), size, half * half, value=-2)
        # (less + i imag) / (a + i b), times 2 C.
        c, d = (2 * self.C.to(dtype) / torch.addcmul(a * a, b, b).unsqueeze(-1)).unbind(-1)
        p, q = torch.addcmul(imag * b, less, a), torch.addcmul(imag * a, less, b, value=-1)
        weight = torch.addcmul(c * p, d, q, value=-1), torch.addcmul(c * q, d, p)
        return decay, rate, angle, torch.stack(weight, -1)

    def _checked(self, x: Tensor, state: State) -> Tensor:
        (h,) = check_state(self, state, [(x.shape[0], self.dim, self.pairs, 2)])
        return h.to(state_dtype(x.dtype))

    def _output(self, y: Tensor, u: Tensor, x: Tensor) -> Tensor:
        y = torch.addcmul(y, u, self.D.to(u.dtype)).to(x.dtype)
        y = self.out(F.gelu(y))
        if transformed():  # glu has no forward mode in half precision
            value, gate = y.chunk(2, -1)
            return (value * gate.sigmoid()).to(x.dtype)
        return F.glu(y, -1).to(x.dtype)
