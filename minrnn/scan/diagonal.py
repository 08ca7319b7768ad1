"""A diagonal linear system with constant complex decays, over packed sequences.

    h_t = lambda * h_{t-1} + u_t,    y_t = Re(sum_n weight_n h_{t,n}),

for each of D channels with N numbers in h. On a CPU with numba a kernel holds h for 32 steps at a
time; elsewhere chunks of time are products of matrices (`minrnn.scan.diagonal_eager`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.derivatives import transformed
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
    if not _op.available(u.device) and not transformed():
        return diagonal_eager.diagonal_scan(u, decay, rate, angle, weight, h0, resets)
    y, last = _op(u, decay, weight, h0, resets)
    return y, last


def reference(
    u: Tensor, decay: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Do the same in O(B T D N log T) memory: after each pass a state has twice as many inputs."""
    a = decay.expand(*u.shape, *decay.shape[1:])
    h = F.pad(u[..., None, None].expand(*u.shape, decay.shape[1], 1), (0, 1))
    cut = None if resets is None else resets[..., None, None, None]
    if h0 is not None:
        before = h0 if cut is None else h0.masked_fill(cut[:, 0], 0.0)
        first = h[:, 0] + _times(a[:, 0], before)
        h = torch.cat([first.unsqueeze(1), h[:, 1:]], 1)
    reach = 1
    while reach < u.shape[1]:
        before = h[:, :-reach]
        if cut is not None:  # masked, as 0 * NaN is NaN
            before = before.masked_fill(cut[:, reach:], 0.0)
            cut = torch.cat([cut[:, :reach], cut[:, reach:] | cut[:, :-reach]], 1)
        carried = _times(a[:, reach:], before)
        h = torch.cat([h[:, :reach], h[:, reach:] + carried], 1)
        a = torch.cat([a[:, :reach], _times(a[:, reach:], a[:, :-reach])], 1)
        reach *= 2
    y = (h[..., 0] * weight[..., 0] - h[..., 1] * weight[..., 1]).sum(-1)
    return y, h[:, -1]


def _times(x: Tensor, y: Tensor) -> Tensor:
    # The product of complex numbers (..., 2).
    (a, b), (c, d) = x.unbind(-1), y.unbind(-1)
    return torch.stack([a * c - b * d, a * d + b * c], -1)


def _shapes(u: Tensor, decay: Tensor, *_: Tensor | None) -> Sequence[Sequence[int]]:
    batch, time, width = u.shape
    chunks = (time + CHUNK - 1) // CHUNK
    return u.shape, (batch, *decay.shape), (batch, chunks, 2, decay.shape[1], width)


_op = KernelOp(
    "diagonal_scan",
    "diagonal",
    "u decay weight h0?",
    "y last",
    "points",
    shapes=_shapes,
    reference=reference,
    lean=True,
)
