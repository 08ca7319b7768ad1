"""The loop over time: x_t += a_t * x_{t-1} in place, one `addcmul_` a time step.

Long sequences of narrow rows are cut into about sqrt(T) chunks that advance side by side.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

# A step of the loop costs about as much as the arithmetic on this many elements: with fewer in a
# row, chunks (which read the data twice) are faster.
_WIDE = 8192
_LONG = 64


def scan_(
    a: Tensor,
    x: Tensor,
    start: Tensor,
    resets: Tensor | None,
    init: Tensor | None = None,
    reverse: bool = False,
) -> None:
    """Do x_t += a_t * x_{t-1} in place, over the second to last dimension.

    a, x: (..., T, D). start: (..., D), the x before the first. resets: (..., T) bool or None:
    there x_{t-1} is init (D,), or zero. reverse: from T - 1 down to 0, with x_{t+1} for x_{t-1}.
    """
    length = x.shape[-2]
    if length == 0:
        return
    rows = x.numel() // length
    if length <= _LONG or rows > _WIDE:
        _loop_(a, x, start, resets, init, reverse)
        return
    # The first pass is a loop over `size` and the second as well, the carry one over the rest.
    size = max(2, round(math.sqrt(length / 2)))
    cut = length - length % size
    first, second = slice(0, cut), slice(cut, length)
    if reverse:
        first, second = slice(length - cut, length), slice(0, length - cut)
    _chunks_(
        _cut(a[..., first, :], size),
        _cut(x[..., first, :], size),
        start,
        None if resets is None else _cut(resets[..., first].unsqueeze(-1), size).squeeze(-1),
        init,
        reverse,
    )
    if cut < length:
        start = x[..., length - cut if reverse else cut - 1, :]
        rest = None if resets is None else resets[..., second]
        _loop_(a[..., second, :], x[..., second, :], start, rest, init, reverse)


def _loop_(
    a: Tensor,
    x: Tensor,
    prev: Tensor,
    resets: Tensor | None,
    init: Tensor | None,
    reverse: bool,
    keep: bool = True,
) -> Tensor:
    # With keep=False x is only read; the last value is returned in either case.
    a_steps, x_steps = a.unbind(-2), x.unbind(-2)
    marks = _marks(resets)
    order = range(len(a_steps))
    for t in reversed(order) if reverse else order:
        decay = a_steps[t]
        if t in marks:
            mask = marks[t]
            if init is None:  # mask both factors: either may be NaN, and 0 * NaN is NaN
                decay, prev = decay.masked_fill(mask, 0.0), prev.masked_fill(mask, 0.0)
            else:
                prev = torch.where(mask, init, prev)
        if keep:
            prev = x_steps[t].addcmul_(decay, prev)
        else:
            prev = torch.addcmul(x_steps[t], decay, prev)
    return prev


def _chunks_(
    a: Tensor,
    x: Tensor,
    start: Tensor,
    resets: Tensor | None,
    init: Tensor | None,
    reverse: bool,
) -> None:
    # a, x: (..., C, L, D). What a chunk does to its incoming x is affine: x -> decay * x + end.
    # Find end by running every chunk from zero, chain the chunks, run them again from there.
    zero = torch.zeros_like(x[..., 0, :])
    end = _loop_(a, x, zero, resets, init, reverse, keep=False)  # (..., C, D)
    decay = a.prod(-2)
    cleared = None if resets is None else resets.any(-1)  # (..., C): nothing passes through
    _loop_(decay, end, start, cleared, None, reverse)
    starts = torch.empty_like(end)
    if reverse:
        starts[..., -1, :] = start
        starts[..., :-1, :] = end[..., 1:, :]
    else:
        starts[..., 0, :] = start
        starts[..., 1:, :] = end[..., :-1, :]
    _loop_(a, x, starts, resets, init, reverse)


def _cut(x: Tensor, size: int) -> Tensor:
    # (..., C * size, D) to (..., C, size, D), a view whatever the strides.
    return x.unfold(-2, size, size).transpose(-1, -2)


def _marks(resets: Tensor | None) -> dict[int, Tensor]:
    """Return the masks (..., 1) of the time steps that may hold a reset."""
    if resets is None:
        return {}
    masks = resets.unsqueeze(-1).unbind(-2)
    if resets.device.type != "cpu":
        return dict(enumerate(masks))  # reading the values would wait for the device
    some = cast("list[bool]", resets.flatten(0, -2).any(0).tolist())  # pyright: ignore
    return {t: masks[t] for t, has in enumerate(some) if has}
