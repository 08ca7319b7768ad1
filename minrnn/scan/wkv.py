"""RWKV's averages over a batch of packed sequences, weighted by e^k, decaying by a constant.

k, v: (B, T, D). w (D,): the logarithm of the decay. u (D,): added to the k of the step that is
read. start: (B, 3, D), a, b, p before the first step; b = 0 where nothing is held. resets: (B, T)
bool: nothing is held before these steps. All of them float32, or all float64. The equations are
those of `minrnn.cells.rwkv`. Compiled on a CPU with numba, else made of the scans of this package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minrnn.scan import scan
from minrnn.scan.kernel_op import KernelOp
from minrnn.scan.maximum import running_max


def wkv_scan(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the averages o (B, T, D), and a, b, p after the last step (B, 3, D)."""
    if not _op.available(k.device):
        return wkv_of_scans(k, v, w, u, start, resets)
    o, last = _op(k, v, w, u, start, resets)
    return o, last


def wkv_of_scans(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `wkv_scan` by a running maximum and two linear scans."""
    if resets is not None:
        start = start.masked_fill(resets[:, :1].unsqueeze(-1), 0.0)
    a0, b0, p0 = start.unbind(1)
    p0 = p0.masked_fill(b0 == 0, -torch.inf)
    p, last = running_max(w, k, p0, resets)
    before = torch.cat([p0.unsqueeze(1), p[:, :-1]], 1)
    fading = before + w - p
    fading = fading - fading.detach().clamp(min=0.0)  # rounding may leave it above 0
    decay, enter = torch.exp(fading), torch.exp(k - p)
    a, a_last = scan(decay, enter * v, a0, resets)
    b, b_last = scan(decay, enter, b0, resets)
    if resets is not None:
        before = before.masked_fill(resets.unsqueeze(-1), -torch.inf)
    o = wkv_read(shifted(a, a0, resets), shifted(b, b0, resets), before, u + k, v)
    # One, but with a gradient: the scale of the returned state depends on the input.
    rescale = torch.exp(p[:, -1] - last)
    return o, torch.stack([a_last * rescale, b_last * rescale, last], 1)


def wkv_step(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return o, a, b and p after one step, (B, D) as all but w and u."""
    p = p.masked_fill(b == 0, -torch.inf)
    o = wkv_read(a, b, p, u + k, v)
    carried = p + w
    p = torch.maximum(carried, k)
    decay, enter = torch.exp(carried - p), torch.exp(k - p)
    return o, torch.addcmul(enter * v, decay, a), torch.addcmul(enter, decay, b), p


def wkv_read(a: Tensor, b: Tensor, p: Tensor, now: Tensor, v: Tensor) -> Tensor:
    """Return the average of what a, b, p hold and of v with the weight e^now."""
    q = torch.maximum(p, now).detach()  # the scale cancels, and needs no gradient
    old, new = torch.exp(p - q), torch.exp(now - q)
    return torch.addcmul(new * v, old, a) / torch.addcmul(new, old, b)


def shifted(x: Tensor, first: Tensor, resets: Tensor | None) -> Tensor:
    """Return what came before each step: first (B, D), then x; zero where an episode starts."""
    before = torch.cat([first.unsqueeze(1), x[:, :-1]], 1)
    return before if resets is None else before.masked_fill(resets.unsqueeze(-1), 0.0)


def _shapes(k: Tensor, *_: Tensor | None) -> Sequence[Sequence[int]]:
    batch, length, width = k.shape
    return k.shape, (batch, 3, width), (batch, length, 3, width)


_op = KernelOp(
    "wkv",
    "wkv",
    "k v w u start",
    "o last",
    "states",
    shapes=_shapes,
    reference=wkv_of_scans,
    saved="k v w u start resets o states",
)
