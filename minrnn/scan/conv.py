"""A causal depthwise convolution over packed sequences: one pass over memory on a CPU with numba.

y_t = bias + sum_j weight[:, W - 1 - j] * x_{t-j}, for j < W and as far as the episode goes back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minrnn.scan.kernel_op import KernelOp


def short_conv(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> Tensor:
    """Return y (B, T, D).

    x: (B, T, D). weight: (D, W). bias: (D,). past: (B, W - 1, D), the inputs before, or None for
    none. resets: (B, T) bool. All float32 or float64, and alike.
    """
    if not _op.available(x.device):
        return reference(x, weight, bias, past, resets)
    [y] = _op(x, weight, bias, past, resets)
    return y


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> Tensor:
    """Do the same on any device, one tap after the other."""
    batch, length, dim = x.shape
    before = weight.shape[1] - 1
    seen = torch.cat([x.new_zeros(batch, before, dim) if past is None else past, x], 1)
    taps = weight.t().contiguous()
    y = torch.addcmul(bias, x, taps[before])
    if resets is None:
        for tap in range(before):
            y = torch.addcmul(y, seen[:, tap : tap + length], taps[tap])
        return y
    cut = torch.zeros_like(resets)
    resets = torch.cat([resets.new_zeros(batch, before), resets], 1)
    for tap in reversed(range(before)):
        # Whether a reset lies between the input of this tap and x_t.
        cut = cut | resets[:, tap + 1 : tap + 1 + length]
        met = seen[:, tap : tap + length].masked_fill(cut.unsqueeze(-1), 0.0)
        y = torch.addcmul(y, met, taps[tap])
    return y


def _shapes(x: Tensor, *_: Tensor | None) -> Sequence[Sequence[int]]:
    return (x.shape,)


_op = KernelOp(
    "short_conv",
    "conv",
    "x weight bias past?",
    "y",
    shapes=_shapes,
    reference=lambda *tensors: (reference(*tensors),),
)
