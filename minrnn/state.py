"""Operations on states: nested tuples, lists and dicts of batch-first tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from minrnn.interface import State


def tree_map(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply a function to the corresponding leaves of states of the same structure.

    Leaves are visited in the order of `leaves`.

    >>> import torch
    >>> tree_map(lambda leaf: leaf + 1, (torch.zeros(1), {"m": torch.ones(1)}))
    (tensor([1.]), {'m': tensor([2.])})
    """
    if isinstance(state, Tensor):
        return function(state, *others)
    for other in others:
        if type(other) is not type(state) or len(other) != len(state):
            raise ValueError(
                f"states differ in structure: {_outline(state)} and {_outline(other)}; "
                "pass a state that the same module returned"
            )
    if isinstance(state, dict):
        rest = cast("tuple[dict[str, State], ...]", others)
        for other in rest:
            if other.keys() != state.keys():
                raise ValueError(f"states differ in keys: {sorted(state)} and {sorted(other)}")
        new = {k: tree_map(function, state[k], *(o[k] for o in rest)) for k in sorted(state)}
        return {key: new[key] for key in state}
    rest = cast("tuple[tuple[State, ...], ...]", others)
    mapped = [tree_map(function, *items) for items in zip(state, *rest, strict=True)]
    return mapped if isinstance(state, list) else tuple(mapped)


def leaves(state: State) -> list[Tensor]:
    """Return the tensors of a state, in a fixed order (dicts in the order of sorted keys)."""
    if isinstance(state, Tensor):
        return [state]
    items = [state[key] for key in sorted(state)] if isinstance(state, dict) else state
    return [leaf for item in items for leaf in leaves(item)]


def select_rows(state: State, rows: Tensor) -> State:
    """Return the state of some rows. rows: (K,) indices, or (B,) bool."""

    def select(leaf: Tensor) -> Tensor:
        return leaf[rows.to(leaf.device)]

    return tree_map(select, state)


def reset_rows(state: State, fresh: State, resets: Tensor) -> State:
    """Return `fresh` in the rows where resets (B,) is set, and `state` in the others.

    Nothing of the state in a reset row passes on, NaN included, nor do gradients.
    """
    if resets.dim() != 1 or resets.dtype != torch.bool:
        raise ValueError(f"resets must be (B,) bool, not {tuple(resets.shape)} {resets.dtype}")

    def reset(leaf: Tensor, clean: Tensor) -> Tensor:
        if len(leaf) != len(resets):
            raise ValueError(f"the state has {len(leaf)} rows and resets has {len(resets)}")
        mask = resets.reshape(-1, *(1,) * (leaf.dim() - 1))
        return torch.where(mask, clean.to(leaf.dtype), leaf)

    return tree_map(reset, state, fresh)


def detach(state: State) -> State:
    """Return the state detached from the graph that made it (truncated backpropagation)."""
    return tree_map(Tensor.detach, state)


def pack(state: State) -> Tensor:
    """Return one (B, S) tensor that holds every leaf, flattened, in the order of `leaves`.

    Integer and bool leaves become floats, exact up to 2 ** 24.
    """
    flat = [leaf.reshape(leaf.shape[0], leaf.shape[1:].numel()) for leaf in leaves(state)]
    dtype = torch.float32
    for leaf in flat:
        if leaf.is_floating_point():
            dtype = torch.promote_types(dtype, leaf.dtype)
    return torch.cat([leaf.to(dtype) for leaf in flat], dim=1)


def unpack(packed: Tensor, like: State) -> State:
    """Undo `pack`. packed: (B, S). like: a state of the same module, of any batch size.

    Floating-point leaves keep the dtype of `packed`, the others get that of `like`.
    """
    sizes = [leaf.shape[1:].numel() for leaf in leaves(like)]
    if packed.dim() != 2 or packed.shape[1] != sum(sizes):
        raise ValueError(
            f"a packed state of this module is (B, {sum(sizes)}), not {tuple(packed.shape)}"
        )
    pieces = iter(torch.split(packed, sizes, 1))

    def piece_of(leaf: Tensor) -> Tensor:  # called in the order of `leaves`
        piece = next(pieces)
        if leaf.dim() != 2:
            piece = piece.reshape(packed.shape[0], *leaf.shape[1:])
        return piece if leaf.is_floating_point() else piece.round().to(leaf.dtype)

    return tree_map(piece_of, like)


def _outline(state: State) -> str:
    if isinstance(state, Tensor):
        return f"Tensor{tuple(state.shape)}"
    return f"{type(state).__name__} of {len(state)}"
