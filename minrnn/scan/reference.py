"""The scan written to be read: a loop in float64, and the paper's log-space form.

For tests and teaching; nothing else in the package uses these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def loop_scan(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
    init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `minrnn.scan.scan` step by step, in float64; autograd gives its gradients."""
    a, b = a.double(), b.double()
    fresh = torch.zeros_like(b[:, 0]) if init is None else init.double().expand_as(b[:, 0])
    h = fresh if h0 is None else h0.double()
    states: list[Tensor] = []
    for t in range(a.shape[1]):
        if resets is not None:
            h = torch.where(resets[:, t, None], fresh, h)
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim=1), h


def log_scan(log_a: Tensor, log_b: Tensor, log_h0: Tensor | None = None) -> Tensor:
    """Compute the scan in log space, with Heinsen's two cumulative sums (appendix B of the paper).

    log_a, log_b: (B, T, D). log_h0: (B, D), the logarithm of the carried state: log(h0), and not
    log_g of it, since it has been through g already. Returns h (B, T, D). b and h0 must be
    positive, there is no reset (its log_a would be -inf), and accuracy falls with T.
    """
    log_decay = log_a.cumsum(dim=1)  # (B, T, D)
    terms = log_b - log_decay
    if log_h0 is not None:
        terms = torch.cat([log_h0.unsqueeze(1), terms], dim=1)
    log_sum = terms.logcumsumexp(dim=1)[:, -log_a.shape[1] :]
    return (log_decay + log_sum).exp()


def log_g(c: Tensor) -> Tensor:
    """Return log g(c): log(c + 0.5) for c >= 0, else log sigmoid(c)."""
    return torch.where(c >= 0, (c.clamp(min=0) + 0.5).log(), F.logsigmoid(c))


def log_mingru_gates(k: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(1 - z) and log(z * g(c)), z = sigmoid(k)."""
    return F.logsigmoid(-k), F.logsigmoid(k) + log_g(c)


def log_minlstm_gates(f: Tensor, i: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return log f' and log(i' * g(c)), the gates normalised to f' + i' = 1."""
    odds = F.logsigmoid(f) - F.logsigmoid(i)
    return F.logsigmoid(odds), F.logsigmoid(-odds) + log_g(c)
