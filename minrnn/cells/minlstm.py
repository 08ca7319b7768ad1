"""minLSTM, of "Were RNNs All We Needed?" (arXiv:2410.01201)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minrnn.cells.minimal import MinimalCell
from minrnn.checks import check_inputs
from minrnn.interface import State
from minrnn.registry import register
from minrnn.scan import minlstm_scan, scan
from minrnn.scan.gates import minlstm_gates


@register("minlstm")
class MinLSTM(MinimalCell):
    """Compute h_t = f'_t * h_{t-1} + i'_t * h~_t with f' = f / (f + i) and i' = i / (f + i),
    where f = sigmoid(W_f x), i = sigmoid(W_i x), h~ = g(W_h x).

    From the paper: the recurrence with its normalised gates; `candidate="g"`, the positive g of
    its log-space form ("linear" is its section 3, "tanh" that of an LSTM); a down-projection
    after an `expansion`. From the code released with it: `normalize=False` is its default (f and
    i as they are); `forget_bias` (3.0 there) added to the initialisation of the bias of f; a
    learned initial state, from zero; no weight decay on the gates. The quotient is taken of the
    pre-activations, in a form that is finite however large they are.

    signed: 2 f' - 1 in the place of f', i' as it is: the decay reaches -1, after "Unlocking
    State-Tracking in Linear RNNs Through Negative Eigenvalues" (arXiv:2411.12537). With f' = 0,
    i' = 1 and h~ = 1 it maps h to 1 - h: one layer computes parity, which no decay in (0, 1) can.
    Not fused.

    >>> import torch
    >>> cell = MinLSTM(8, forget_bias=3.0)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, state.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    gates = ("forget_gate", "input_gate")
    forget_gate: nn.Linear
    input_gate: nn.Linear

    def __init__(
        self,
        dim: int,
        *,
        expansion: float = 1.0,
        candidate: str = "g",
        forget_bias: float = 0.0,
        learn_initial_state: bool = False,
        normalize: bool = True,
        signed: bool = False,
    ) -> None:
        super().__init__(dim, expansion, candidate, learn_initial_state)
        self.normalize = normalize
        self.signed = signed
        with torch.no_grad():
            self.forget_gate.bias.add_(forget_bias)

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, T, dim); see `SequenceMixer.forward`. The state is h, (B, hidden)."""
        check_inputs(x, resets, self.dim)
        h0 = None if state is None else self._checked(state, x.shape[0])
        if self.signed:
            h, last = scan(*self.coefficients(x), h0, resets, init=self.initial)
        else:
            f, i, c = self.forget_gate(x), self.input_gate(x), self.candidate(x)
            h, last = minlstm_scan(
                f,
                i,
                c,
                h0,
                resets,
                init=self.initial,
                candidate=self.candidate_kind,
                normalize=self.normalize,
            )
        return self.output(h, x.dtype), last

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of h_t = a_t * h_{t-1} + b_t; see `MinimalCell.coefficients`."""
        f, i, c = self.forget_gate(x), self.input_gate(x), self.candidate(x)
        return minlstm_gates(f, i, c, self.candidate_kind, self.normalize, self.signed)

    def extra_repr(self) -> str:
        """Show the options in the module's printout."""
        return f"{super().extra_repr()}, normalize={self.normalize}, signed={self.signed}"
