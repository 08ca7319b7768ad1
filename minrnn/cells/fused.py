"""Base of GRU and LSTM: torch's kernels, run on the segments between resets."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from minrnn.checks import check_inputs, check_state
from minrnn.compiling import exporting, uncompiled
from minrnn.derivatives import transformed
from minrnn.interface import SequenceMixer, State, state_dtype


class FusedCell(SequenceMixer):
    """A cell with the parameters of nn.GRU or nn.LSTM; its state is one or two (B, hidden)."""

    num_leaves: ClassVar[int]  # vectors in the state
    kind: ClassVar[str]

    def __init__(self, dim: int, expansion: float, learn_initial_state: bool) -> None:
        super().__init__()
        hidden = round(dim * expansion)
        if dim < 1 or hidden < 1:
            raise ValueError(f"dim {dim} with expansion {expansion} leaves no hidden units")
        self.dim = dim
        self.hidden = hidden
        # The parameters only: no graph may hold an nn.GRU or nn.LSTM.
        self.rnn = nn.RNNBase(self.kind, dim, hidden, batch_first=True)
        self.down = nn.Linear(hidden, dim) if expansion != 1.0 else nn.Identity()
        self.initial = (
            nn.Parameter(torch.zeros(self.num_leaves, hidden)) if learn_initial_state else None
        )

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read (B, T, dim); see `SequenceMixer.forward`."""
        check_inputs(x, resets, self.dim)
        if transformed() or exporting(x):
            return self._steps(x, state, resets)
        if x.shape[1] == 1:  # a step needs no kernel for sequences
            y, new = self.step(x[:, 0], state, None if resets is None else resets[:, 0])
            return y.unsqueeze(1), new
        with _own_dtype(x):
            h, last = self._run(x, self._previous(x, state), resets)
        return self._output(h, x), self._state(last)

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read (B, dim); see `SequenceMixer.step`."""
        check_inputs(x, resets, self.dim, step=True)
        previous = self._previous(x, state)
        if resets is not None and state is not None:
            previous = self._cleared(previous, resets)
        with _own_dtype(x):
            new = self._cell(x.to(self._dtype), previous)
        return self._output(new[0], x), self._state(new)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return zeros, or the learned state with its gradient; each leaf (batch_size, hidden)."""
        like = self._weights()[0]
        fresh = like.new_zeros(self.num_leaves, 1) if self.initial is None else self.initial
        fresh = fresh.to(device=device or like.device, dtype=dtype or state_dtype(like.dtype))
        return self._tree([f.expand(batch_size, self.hidden).clone() for f in fresh])

    def no_weight_decay(self) -> set[str]:
        """Return the name of the learned initial state, if there is one."""
        return set() if self.initial is None else {"initial"}

    @property
    def _dtype(self) -> torch.dtype:
        return self._weights()[0].dtype

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        p = cast(Any, self.rnn)
        return p.weight_ih_l0, p.weight_hh_l0, p.bias_ih_l0, p.bias_hh_l0

    def _cell(self, x: Tensor, previous: list[Tensor]) -> list[Tensor]:
        # One step. previous and result: the leaves of the state, the first of which is the output.
        raise NotImplementedError

    def _previous(self, x: Tensor, state: State | None) -> list[Tensor]:
        # The leaves before the first step, in the dtype of the kernel.
        if state is None:
            state = self.initial_state(x.shape[0], x.device)
        leaves = check_state(self, state, [(x.shape[0], self.hidden)] * self.num_leaves)
        return [leaf.to(self._dtype) for leaf in leaves]

    def _cleared(self, leaves: list[Tensor], resets: Tensor) -> list[Tensor]:
        # The leaves, with the initial state in the rows where resets (B,) is set.
        mask = resets.unsqueeze(-1)
        if self.initial is None:
            return [leaf.masked_fill(mask, 0.0) for leaf in leaves]
        return [torch.where(mask, f, p) for f, p in zip(self.initial, leaves, strict=True)]

    def _steps(self, x: Tensor, state: State | None, resets: Tensor | None) -> tuple[Tensor, State]:
        # As forward: torch's kernels have no vmap and no forward mode, single steps have both.
        outputs: list[Tensor] = []
        state = self.initial_state(x.shape[0], x.device) if state is None else state
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state, None if resets is None else resets[:, t])
            outputs.append(y)
        return torch.stack(outputs, 1), state

    @uncompiled  # shapes depend on where episodes start, which no graph can hold.
    def _run(
        self, x: Tensor, previous: list[Tensor], resets: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        # Returns the outputs (B, T, hidden), and the leaves after the last step.
        x = x.to(self._dtype)
        if resets is None or not resets[:, 1:].any():
            if resets is not None:
                previous = self._cleared(previous, resets[:, 0])
            return self._kernel(x, previous, batch_first=True)
        cut = _Segments.of(resets)
        state = self._cleared([p[cut.row] for p in previous], cut.fresh)
        data = _permuted(x.flatten(0, 1), cut.to)
        shown: list[Tensor] = []
        ended: list[list[Tensor]] = []
        for size, steps in cut.runs:  # as long as no segment ends, they are one batch
            ended.append([leaf[size:] for leaf in state])
            block, data = data[: size * steps], data[size * steps :]
            h, state = self._kernel(
                block.view(steps, size, -1), [leaf[:size] for leaf in state], batch_first=False
            )
            shown.append(h.flatten(0, 1))
        ended.append(state)
        h = _permuted(torch.cat(shown), cut.back).view(*x.shape[:2], -1)
        last = [torch.cat(leaf[::-1])[cut.final] for leaf in map(list, zip(*ended, strict=True))]
        return h, last

    def _kernel(
        self, x: Tensor, previous: list[Tensor], batch_first: bool
    ) -> tuple[Tensor, list[Tensor]]:
        hx = [p.unsqueeze(0).contiguous() for p in previous]
        # Biases, one layer, no dropout, training or not, not bidirectional.
        options = (True, 1, 0.0, self.training, False, batch_first)
        run = getattr(torch, self.kind.lower())
        h, *last = run(x, hx[0] if self.num_leaves == 1 else hx, self._weights(), *options)
        return h, [leaf[0] for leaf in last]

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.down(h.to(x.dtype)))

    def _state(self, leaves: list[Tensor]) -> State:
        dtype = state_dtype(self._dtype)
        return self._tree([leaf.to(dtype) for leaf in leaves])

    def _tree(self, leaves: list[Tensor]) -> State:
        return leaves[0] if self.num_leaves == 1 else tuple(leaves)


@dataclass(frozen=True)
class _Segments:
    """Rows cut at every reset into S segments, the longest first, and packed: the first steps of
    all of them, then the second steps of those that have one, and so on.

    The steps of the rows, one row after the other, are numbered from 0 to B T - 1.
    """

    runs: list[tuple[int, int]]  # how many segments still run, and for how many steps
    to: Tensor  # (B T,): where each step is in the packed data
    back: Tensor  # (B T,): which step each row of the packed data is
    row: Tensor  # (S,)
    fresh: Tensor  # (S,) bool: does not continue the state of its row
    final: Tensor  # (B,): the last segment of each row

    @staticmethod
    def of(resets: Tensor) -> _Segments:
        rows, length = resets.shape
        starts = resets.to("cpu", copy=True)
        starts[:, 0] = True
        first = starts.flatten().nonzero().squeeze(1)
        lengths = torch.diff(first, append=torch.tensor([rows * length]))
        lengths, order = lengths.sort(descending=True)
        first = first[order]
        sizes = len(first) - lengths.bincount().cumsum(0)[:-1]
        time = torch.arange(len(sizes)).repeat_interleave(sizes)
        steps = torch.arange(rows * length)
        back = first[steps - (sizes.cumsum(0) - sizes)[time]] + time
        row = first // length
        ending = (first + lengths) % length == 0
        parts = (
            torch.empty_like(steps).index_copy_(0, back, steps),
            back,
            row,
            resets.cpu().flatten()[first],
            torch.empty(rows, dtype=torch.long).index_copy_(
                0, row[ending], ending.nonzero().squeeze(1)
            ),
        )
        unique = cast(Any, torch).unique_consecutive
        counted = [z.tolist() for z in unique(sizes, return_counts=True)]
        return _Segments(
            list(zip(*counted, strict=True)), *(part.to(resets.device) for part in parts)
        )


def _permuted(x: Tensor, to: Tensor) -> Tensor:
    # Row i goes to row to[i]. As a copy its gradient is a gather; that of a gather adds up.
    return x.new_empty(x.shape).index_copy(0, to, x)


def _own_dtype(x: Tensor) -> AbstractContextManager[Any]:
    # cuDNN supports autocast; torch's CPU kernels fail on mixed dtypes.
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return torch.autocast("cpu", enabled=False)
    return nullcontext()
