"""Checks of the arguments of all cells; errors say what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from minrnn.compiling import latest
from minrnn.interface import State


def check_inputs(x: Tensor, resets: Tensor | None, dim: int, *, step: bool = False) -> None:
    """Check the arguments of `forward`: x (B, T, dim), resets (B, T); or of `step`, without T.

    Raises ValueError for wrong shapes, and for resets that are not bool.
    """
    if step and x.dim() != 2:
        raise ValueError(
            f"step reads one time step, x (B, {dim}), not {tuple(x.shape)}; use forward for more"
        )
    if x.dim() != 3 - step or x.shape[-1] != dim or (not step and x.shape[1] == 0):
        wanted = f"(B, {dim})" if step else f"(B, T, {dim}) with T >= 1"
        raise ValueError(f"x must be {wanted}, not {tuple(x.shape)}")
    if resets is not None:
        if resets.shape != x.shape[:-1]:
            raise ValueError(f"resets must be {tuple(x.shape[:-1])}, not {tuple(resets.shape)}")
        if resets.dtype != torch.bool:
            raise ValueError(f"resets must be bool, not {resets.dtype}; pass resets.bool()")


def spoilt(bad: Tensor, resets: Tensor | None) -> Tensor:
    """Return (B, T) bool: the bad steps, and all later steps of their episodes.

    bad: (B, T) bool, steps whose input is not finite. A masked matrix product would carry it to
    earlier steps and to other episodes, as 0 * NaN.
    """
    count = bad.cumsum(1)
    if resets is not None:
        before = torch.where(resets, count - bad.long(), 0)
        count = count - latest(before)
    return count > 0


def check_state(owner: object, state: State, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the leaves of a state that has to be a tuple of tensors of these shapes.

    A single shape means that the state is the tensor itself. Raises TypeError for another
    structure, ValueError for other shapes.
    """
    name = type(owner).__name__
    given: Sequence[State] = (state,)
    if len(shapes) > 1:
        if not isinstance(state, tuple) or len(state) != len(shapes):
            kind = f"tuple of {len(state)}" if isinstance(state, tuple) else type(state).__name__
            raise TypeError(f"the state of {name} is a tuple of {len(shapes)}, not a {kind}")
        given = state
    for number, (leaf, shape) in enumerate(zip(given, shapes, strict=True)):
        what = f"leaf {number} of the state" if len(shapes) > 1 else "the state"
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{what} of {name} is a tensor {shape}, not a {type(leaf).__name__}")
        if leaf.shape != shape:
            raise ValueError(
                f"{what} of {name} must be {shape}, not {tuple(leaf.shape)}; "
                "it belongs to a batch of another size, or to another cell"
            )
    return cast("list[Tensor]", list(given))
