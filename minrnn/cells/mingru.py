"""minGRU, of "Were RNNs All We Needed?" (arXiv:2410.01201)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minrnn.cells.minimal import MinimalCell
from minrnn.checks import check_inputs
from minrnn.interface import State
from minrnn.registry import register
from minrnn.scan import mingru_scan, scan
from minrnn.scan.gates import mingru_gates


@register("mingru")
class MinGRU(MinimalCell):
    """Compute h_t = (1 - z_t) * h_{t-1} + z_t * h~_t with z = sigmoid(W_z x), h~ = g(W_h x).

    From the paper: the recurrence; `candidate="g"`, the positive g of its log-space form
    ("linear" is its section 3, "tanh" that of a GRU); a down-projection after an `expansion`.
    From the code released with it: `forget_bias` (3.0 there) added to the initialisation of the
    forget gate, which here is 1 - z, so that it is subtracted from the bias of z; a learned
    initial state, from zero; no weight decay on the gate. Computed in linear space: the paper's
    log space loses accuracy with length, and cannot hold a reset.

    signed: h_t = (1 - 2 z_t) * h_{t-1} + z_t * h~_t, whose decay reaches -1, after "Unlocking
    State-Tracking in Linear RNNs Through Negative Eigenvalues" (arXiv:2411.12537). With z = 1 and
    h~ = 1 it maps h to 1 - h: one layer computes parity, which no decay in (0, 1) can. Not fused.

    >>> import torch
    >>> cell = MinGRU(8)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, state.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    gates = ("gate",)
    gate: nn.Linear

    def __init__(
        self,
        dim: int,
        *,
        expansion: float = 1.0,
        candidate: str = "g",
        forget_bias: float = 0.0,
        learn_initial_state: bool = False,
        signed: bool = False,
    ) -> None:
        super().__init__(dim, expansion, candidate, learn_initial_state)
        self.signed = signed
        with torch.no_grad():
            self.gate.bias.sub_(forget_bias)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, T, dim); see `SequenceMixer.forward`. The state is h, (B, hidden)."""
        check_inputs(x, resets, self.dim)
        h0 = None if state is None else self._checked(state, x.shape[0])
        if self.signed:
            h, last = scan(*self.coefficients(x), h0, resets, init=self.initial)
        else:
            k, c, kind = self.gate(x), self.candidate(x), self.candidate_kind
            h, last = mingru_scan(k, c, h0, resets, init=self.initial, candidate=kind)
        return self.output(h, x.dtype), last

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of h_t = a_t * h_{t-1} + b_t; see `MinimalCell.coefficients`."""
        k, c = self.gate(x), self.candidate(x)
        return mingru_gates(k, c, self.candidate_kind, self.signed)

    def extra_repr(self) -> str:
        """Show the options in the module's printout."""
        return f"{super().extra_repr()}, signed={self.signed}"
