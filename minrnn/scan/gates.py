"""Gates and candidates of minGRU and minLSTM: pre-activations in, (a, b) of the scan out.

Each turns the recurrence into h_t = a_t * h_{t-1} + b_t, in float32 or float64. These are written
for autograd: the step functions and the references use them; the fused scans compute the same with
hand-made gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.interface import state_dtype

Candidate = Literal["g", "tanh", "linear"]
CANDIDATES: tuple[str, ...] = get_args(Candidate)


def candidate(c: Tensor, kind: str) -> Tensor:
    """Return the candidate state of the pre-activation c.

    "g" is the paper's (appendix B): c + 0.5 for c >= 0, else sigmoid(c); positive, continuous.
    Its derivative at 0 is the one from the right, 1.
    """
    if kind == "g":
        return torch.where(c >= 0, c + 0.5, torch.sigmoid(c))
    return torch.tanh(c) if kind == "tanh" else c


def mingru_gates(
    k: Tensor, c: Tensor, kind: str = "g", signed: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (1 - z, z * candidate) for z = sigmoid(k); signed: 1 - 2 z for 1 - z.

    1 - z is sigmoid(-k): the subtraction would lose every digit of a small forget gate. Likewise
    1 - 2 z is tanh(-k / 2).
    """
    k, c = _widened(k, c)
    decay = torch.tanh(-0.5 * k) if signed else torch.sigmoid(-k)
    return decay, torch.sigmoid(k) * candidate(c, kind)


def minlstm_gates(
    f: Tensor,
    i: Tensor,
    c: Tensor,
    kind: str = "g",
    normalize: bool = True,
    signed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return (f', i' * candidate); normalised: f' = F / (F + I), i' = I / (F + I), F = sigmoid(f).

    From the pre-activations: f' = sigmoid(log F - log I), which neither divides by zero nor
    rounds to 0 / 0 however large |f| and |i| are. signed: 2 f' - 1 for f', which is tanh of half
    of what f' is the sigmoid of.
    """
    f, i, c = _widened(f, i, c)
    if normalize:
        f = F.logsigmoid(f) - F.logsigmoid(i)
        i = -f
    decay = torch.tanh(0.5 * f) if signed else torch.sigmoid(f)
    return decay, torch.sigmoid(i) * candidate(c, kind)


def coefficients(gates: str, kind: str, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return a and b of the scan with these gates and candidate; see `minrnn.scan.ops`."""
    if gates == "linear":
        a, b = _widened(*inputs)
        return a, b
    if gates == "mingru":
        return mingru_gates(*inputs, kind=kind)
    return minlstm_gates(*inputs, kind=kind, normalize=gates == "minlstm")


def _widened(*pre_activations: Tensor) -> list[Tensor]:
    return [x.to(state_dtype(x.dtype)) for x in pre_activations]
