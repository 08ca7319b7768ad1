"""A diagonal linear system with constant complex decays, over packed sequences.

    h_t = lambda * h_{t-1} + u_t,    y_t = Re(sum_n weight_n h_{t,n}),

for each of D channels with N numbers in h. On a CPU with numba a kernel holds h for 32 steps at a
time; elsewhere chunks of time are products of matrices (`minrnn.scan.diagonal_eager`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minrnn.scan import diagonal_eager
from minrnn.scan.kernel_op import KernelOp

# Steps between the states that are kept for the backward pass: 4 N numbers for a channel and
# chunk, while the recomputed h of a few channels stays in the nearest cache.
CHUNK = 32


def diagonal_scan(
    u: Tensor,
    decay: Tensor,
    rate: Tensor,
    angle: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y (B, T, D), and h after the last step (B, D, N, 2), real and imaginary parts.

    u: (B, T, D). decay: (D, N, 2), which is lambda = exp(rate + i angle), both (D, N), with rate
    <= 0. weight: (D, N, 2). h0: (B, D, N, 2) or None for zero. resets: (B, T) bool. All float32 or
    float64, and alike.
    """
    if not _op.available(u.device):
        return diagonal_eager.diagonal_scan(u, decay, rate, angle, weight, h0, resets)
    y, last = _op(u, decay, weight, h0, resets)
    return y, last


def _shapes(u: Tensor, decay: Tensor, *_: Tensor | None) -> Sequence[Sequence[int]]:
    batch, time, width = u.shape
    chunks = (time + CHUNK - 1) // CHUNK
    return u.shape, (batch, *decay.shape), (batch, chunks, 2, decay.shape[1], width)


_op = KernelOp(
    "diagonal_scan", "diagonal", "u decay weight h0?", "y last", "points", shapes=_shapes, lean=True
)
