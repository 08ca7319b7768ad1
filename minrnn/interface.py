"""The contract that every sequence mixer keeps.

    y, state = mixer(x, state=None, resets=None)       # x, y: (B, T, dim)   resets: (B, T) bool
    y, state = mixer.step(x, state=None, resets=None)  # x, y: (B, dim)      resets: (B,)   bool
    state    = mixer.initial_state(batch_size)         # every leaf is batch-first

`resets[b, t]` means that a new episode starts at `x[b, t]`: the state of row b is cleared *before*
`x[b, t]` is read. (SB3 calls this `episode_starts`, TorchRL `is_init`. A `done` that comes out of
environment step t is `resets[t + 1]`.)

The laws, which `minrnn.testing.check_mixer` checks:

1. Step: forward(x) equals stepping over t.
2. Carry: forward(x) equals forward(x[:, :k]) and then forward(x[:, k:], state).
3. Reset: a packed row equals its episodes run apart.
4. Hygiene: what the state held in a row that is reset is invisible, NaN included.
5. Purity: no argument is modified; `state=None` equals `initial_state`; the module can be
   deep-copied, pickled and compiled.
6. Canonical: parts of the state that no longer matter are zero; states can be compared.
7. Gradients flow through the state, the initial one included, and are right.
8. Causality: y[:, :t] does not change when x[:, t:] does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias, Union, cast

import torch
from torch import Tensor, nn

State: TypeAlias = Union[  # noqa: UP007 (with a string in it, | works from Python 3.14 only)
    Tensor, tuple["State", ...], list["State"], dict[str, "State"]
]
"""A tensor, or a tuple, list or dict of states. Every leaf is batch-first."""


class SequenceMixer(nn.Module):
    """Mix information along time, causally, with a recurrent state of constant size.

    Subclasses set `dim` and implement `forward`, `step` and `initial_state`; the module's
    docstring has the laws that these keep.
    """

    dim: int

    def forward(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read a batch of sequences.

        x: (B, T, dim), T >= 1. state: what an earlier call returned; None means `initial_state`.
        resets: (B, T) bool, or None for no reset. Returns y: (B, T, dim) and the state after T.
        """
        raise NotImplementedError(f"{type(self).__name__} has to implement forward")

    def step(
        self, x: Tensor, state: State | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read one time step. x: (B, dim), resets: (B,) bool. Returns y: (B, dim) and the state."""
        raise NotImplementedError(f"{type(self).__name__} has to implement step")

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return the state before the first step; by default where the parameters are.

        `dtype` is that of the floating-point leaves; by default float32, and float64 for a
        float64 module, whatever the dtype that the parameters or autocast compute in.
        """
        raise NotImplementedError(f"{type(self).__name__} has to implement initial_state")

    def no_weight_decay(self) -> set[str]:
        """Return the names, relative to this module, of parameters without weight decay (gates)."""
        modules = cast("Iterator[tuple[str, nn.Module]]", self.named_modules())
        return {
            f"{path}.{name}"
            for path, module in modules
            if path and isinstance(module, SequenceMixer)
            for name in module.no_weight_decay()
        }

    if TYPE_CHECKING:  # nn.Module.__call__ is untyped

        def __call__(
            self, x: Tensor, state: State | None = None, resets: Tensor | None = None
        ) -> tuple[Tensor, State]:
            """Call `forward`."""
            ...


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a state: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
