"""The selective scan of Mamba: a diagonal linear system that its input steers.

    h_t = exp(dt_t A) * h_{t-1} + dt_t u_t B_t,    y_t = sum_n C_{t,n} h_{t,n},

for each of D channels with N numbers in h.
"""

from __future__ import annotations

from torch import Tensor

from minrnn.scan import scan


def selective_scan(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y (B, T, D), and h after the last step (B, D, N).

    u, dt: (B, T, D), dt >= 0. a: (D, N), negative: A. b, c: (B, T, N). h0: (B, D, N) or None for
    zero. resets: (B, T) bool. All float32 or float64, and alike.
    """
    decay = (dt.unsqueeze(-1) * a).exp()
    entering = (dt * u).unsqueeze(-1) * b.unsqueeze(2)
    first = None if h0 is None else h0.flatten(1)
    h, last = scan(decay.flatten(2), entering.flatten(2), first, resets)
    y = (h.view_as(decay) * c.unsqueeze(2)).sum(-1)
    return y, last.view(len(u), *a.shape)
