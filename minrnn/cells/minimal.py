"""Base of minGRU and minLSTM: width, learned initial state, down-projection, weight decay."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.interface import SequenceMixer, State, state_dtype
from minrnn.scan.gates import CANDIDATES


class MinimalCell(SequenceMixer):
    """A cell whose state is one vector (B, hidden), and whose gates read x alone."""

    gates: tuple[str, ...]  # names of the Linear layers of the gates

    def __init__(
        self, dim: int, expansion: float, candidate: str, learn_initial_state: bool
    ) -> None:
        super().__init__()
        hidden = round(dim * expansion)
        if dim < 1 or hidden < 1:
            raise ValueError(f"dim {dim} with expansion {expansion} leaves no hidden units")
        if candidate not in CANDIDATES:
            raise ValueError(f"no candidate {candidate!r}; there is {', '.join(CANDIDATES)}")
        self.dim = dim
        self.hidden = hidden
        self.candidate_kind = candidate
        for name in self.gates:
            self.add_module(name, nn.Linear(dim, hidden))
        self.candidate = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim) if expansion != 1.0 else nn.Identity()
        self.initial = nn.Parameter(torch.zeros(hidden)) if learn_initial_state else None

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return (batch_size, hidden): zeros, or the learned state, with its gradient."""
        like = self.candidate.weight
        dtype = dtype or state_dtype(like.dtype)
        if self.initial is None:
            return torch.zeros(batch_size, self.hidden, device=device or like.device, dtype=dtype)
        return self.initial.to(device=device or like.device, dtype=dtype).repeat(batch_size, 1)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the gates' parameters and of the learned initial state."""
        names = {f"{gate}.{p}" for gate in self.gates for p in ("weight", "bias")}
        return names | ({"initial"} if self.initial is not None else set())

    def extra_repr(self) -> str:
        """Show the candidate in the module's printout."""
        return f"candidate_kind={self.candidate_kind!r}"

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b, (..., hidden), of h_t = a_t * h_{t-1} + b_t. x: (..., dim).

        They have the dtype of states.
        """
        raise NotImplementedError(f"{type(self).__name__} has to implement coefficients")

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        h = self.advance(*self.coefficients(x), state, resets)
        return self.output(h, x.dtype), h

    def advance(
        self, a: Tensor, b: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> Tensor:
        """Return h (B, hidden) after one step. a, b: (B, hidden), from `coefficients`."""
        fresh = None if self.initial is None else self.initial.to(a.dtype)
        if state is None:
            h = b if fresh is None else torch.addcmul(b, a, fresh)
        else:
            previous = self._checked(state, a.shape[0]).to(a.dtype)
            if resets is not None:
                start = torch.zeros((), dtype=a.dtype, device=a.device) if fresh is None else fresh
                previous = torch.where(resets.unsqueeze(-1), start, previous)
            h = torch.addcmul(b, a, previous)
        return h

    def _checked(self, state: State, batch: int) -> Tensor:
        return check_state(self, state, [(batch, self.hidden)])[0]

    def output(self, h: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the output for h, (..., dim), in the dtype of the input."""
        # The down-projection runs in that dtype, unless autocast chooses another.
        return cast(Tensor, self.down(h.to(dtype)))
