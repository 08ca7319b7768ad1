"""The long short-term memory (Hochreiter and Schmidhuber, 1997), by torch's kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.cells.fused import FusedCell
from minrnn.derivatives import transformed
from minrnn.registry import register


@register("lstm")
class LSTM(FusedCell):
    """Compute c_t = f_t * c_{t-1} + i_t * g_t and h_t = o_t * tanh(c_t) with
    i_t = sigmoid(W_i x_t + b_i + U_i h_{t-1} + c_i), f_t and o_t likewise, and g_t with tanh.

    As in `torch.nn.LSTM` with one layer: the parameters (in `rnn`), their order
    (i, f, g, o) and their initialisation are the same, but for `forget_bias`, which is added to
    that of the forget gate (1.0 in Jozefowicz et al., 2015). Without a reset after the first step
    it is one call; else rows are cut at their resets, and the segments are read side by side, in
    one call for each length among them. A down-projection follows an `expansion`;
    `learn_initial_state` learns h_0 and c_0, from zero. The state is (h, c), each (B, hidden).

    >>> import torch
    >>> cell = LSTM(8, forget_bias=1.0)
    >>> y, state = cell(torch.randn(2, 5, 8))
    >>> y, (h, c) = cell.step(torch.randn(2, 8), state)
    >>> y.shape, h.shape, c.shape
    (torch.Size([2, 8]), torch.Size([2, 8]), torch.Size([2, 8]))
    """

    num_leaves = 2
    kind = "LSTM"

    def __init__(
        self,
        dim: int,
        *,
        expansion: float = 1.0,
        forget_bias: float = 0.0,
        learn_initial_state: bool = False,
    ) -> None:
        super().__init__(dim, expansion, learn_initial_state)
        with torch.no_grad():
            self._weights()[2][self.hidden : 2 * self.hidden] += forget_bias

    def _cell(self, x: Tensor, previous: list[Tensor]) -> list[Tensor]:
        if not transformed():
            return list(torch.lstm_cell(x, previous, *self._weights()))
        # The same in operations that have a vmap.
        h, c = previous
        w_x, w_h, b_x, b_h = self._weights()
        i, f, g, o = (F.linear(x, w_x, b_x) + F.linear(h, w_h, b_h)).chunk(4, -1)
        c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
        return [o.sigmoid() * c.tanh(), c]
