"""The gated recurrent unit (Cho et al., arXiv:1406.1078), by torch's kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.cells.fused import FusedCell
from minrnn.derivatives import transformed
from minrnn.registry import register


@register("gru")
class GRU(FusedCell):
    """Compute h_t = (1 - z_t) * n_t + z_t * h_{t-1} with
    r_t = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r), z_t likewise, and
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + c_n)).

    As in `torch.nn.GRU` with one layer: the parameters (in `rnn`), their order (r, z, n) and
    their initialisation are the same. Without a reset after the first step it is one call; else
    rows are cut at their resets, and the segments are read side by side, in one call for each
    length among them. A down-projection follows an `expansion`; `learn_initial_state` learns h_0,
    from zero. The state is h, (B, hidden).

    >>> import torch
    >>> cell = GRU(8)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, state = cell.step(torch.randn(2, 8), state)
    >>> y.shape, state.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    num_leaves = 1
    kind = "GRU"

    def __init__(
        self, dim: int, *, expansion: float = 1.0, learn_initial_state: bool = False
    ) -> None:
        super().__init__(dim, expansion, learn_initial_state)

    def _cell(self, x: Tensor, previous: list[Tensor]) -> list[Tensor]:
        if not transformed():
            return [torch.gru_cell(x, previous[0], *self._weights())]
        # The same in operations that have a vmap.
        w_x, w_h, b_x, b_h = self._weights()
        own, past = F.linear(x, w_x, b_x), F.linear(previous[0], w_h, b_h)
        r, z = (own + past).chunk(3, -1)[:2]
        n = torch.addcmul(own.chunk(3, -1)[2], r.sigmoid(), past.chunk(3, -1)[2]).tanh()
        return [torch.lerp(n, previous[0], z.sigmoid())]
