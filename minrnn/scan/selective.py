"""The selective scan of Mamba: a diagonal linear system that its input steers.

    h_t = exp(dt_t A) * h_{t-1} + dt_t u_t B_t,    y_t = sum_n C_{t,n} h_{t,n},

for each of D channels with N numbers in h. On a CPU with numba a kernel holds h for 16 steps at a
time, O(B T D) memory; elsewhere `minrnn.scan` runs over D N channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minrnn.scan import scan
from minrnn.scan.kernel_op import KernelOp

# Steps between the states that are kept for the backward pass: the recomputed h of a few channels
# stays in the nearest cache.
CHUNK = 16


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
    if not _op.available(u.device):
        return reference(u, dt, a, b, c, h0, resets)
    y, last = _op(u, dt, a, b, c, h0, resets)
    return y, last


def reference(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Do the same on any device, in O(B T D N) memory."""
    decay = (dt.unsqueeze(-1) * a).exp()
    entering = (dt * u).unsqueeze(-1) * b.unsqueeze(2)
    first = None if h0 is None else h0.flatten(1)
    h, last = scan(decay.flatten(2), entering.flatten(2), first, resets)
    y = (h.reshape(decay.shape) * c.unsqueeze(2)).sum(-1)
    return y, last.reshape(u.shape[0], *a.shape)


def _shapes(u: Tensor, dt: Tensor, a: Tensor, *_: Tensor | None) -> Sequence[Sequence[int]]:
    batch, time, width = u.shape
    chunks = (time + CHUNK - 1) // CHUNK
    return u.shape, (batch, *a.shape), (batch, chunks, a.shape[1], width)


_op = KernelOp(
    "selective_scan",
    "selective",
    "u dt a b c h0?",
    "y last",
    "points",
    shapes=_shapes,
    reference=reference,
    lean=True,
)
