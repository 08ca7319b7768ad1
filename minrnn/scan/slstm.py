"""The recurrence of sLSTM over a batch of packed sequences, which only steps can compute.

Compiled on a CPU with numba, else a loop in torch. d units in each of H heads:

x: (B, T, H, 4, d), what the pre-activations i, f, z, o get from the input. r: (H, d, 4, d), from
y_{t-1}. start: (B, 4, H, d), y, c, n, m before the first step. resets: (B, T) bool: the state is
zero before these steps. All of them float32, or all float64. The equations are those of
`minrnn.cells.slstm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.scan.kernel_op import KernelOp


def slstm_scan(
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y (B, T, H, d), and y, c, n, m after the last step (B, 4, H, d)."""
    if not _op.available(x.device):
        return slstm_loop(x, r, start, resets)
    y, last = _op(x, r, start, resets)
    return y, last


def slstm_loop(
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `slstm_scan` by a loop over time, in torch."""
    state, outputs = start, list[Tensor]()
    for t in range(x.shape[1]):
        if resets is not None:
            state = state.masked_fill(resets[:, t].view(-1, 1, 1, 1), 0.0)
        state = slstm_step(x[:, t], r, state)
        outputs.append(state[:, 0])
    return torch.stack(outputs, 1), state


def slstm_step(x: Tensor, r: Tensor, state: Tensor) -> Tensor:
    """Return the state (B, 4, H, d) after one step. x: (B, H, 4, d)."""
    y, c, n, m = state.unbind(1)
    recurrent = y.unsqueeze(-2) @ r.flatten(2)  # (B, H, 1, 4 d)
    i, f, z, o = (x + recurrent.view_as(x)).unbind(2)
    carried = F.logsigmoid(f) + m.masked_fill(n == 0, -torch.inf)
    m = torch.maximum(i, carried)
    forget, enter = torch.exp(carried - m), torch.exp(i - m)
    c = torch.addcmul(enter * torch.tanh(z), forget, c)
    n = torch.addcmul(enter, forget, n)
    return torch.stack([torch.sigmoid(o) * c / n, c, n, m], 1)


def _shapes(x: Tensor, *_: Tensor | None) -> Sequence[Sequence[int]]:
    batch, length, heads, gates, size = x.shape
    one, steps = (heads, size), (batch, length)
    return (*steps, *one), (batch, gates, *one), (*steps, 3, *one), x.shape


# raw: the pre-activations, which the backward pass reads instead of x.
_op = KernelOp(
    "slstm",
    "slstm",
    "x r start",
    "y last",
    "rest raw",
    shapes=_shapes,
    reference=slstm_loop,
    saved="raw r start resets y rest",
)
