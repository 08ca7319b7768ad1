# pyright: reportUnknownMemberType=false
"""The running maximum m_t = max(m_{t-1} + f_t, i_t) over a batch of packed sequences, which keeps
exponential gates finite.

A cell stores its numbers multiplied by e^{-m}. Its outputs do not depend on the scale m, so that m
needs no gradient inside the sequence; the returned state does, so that the last m has one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minrnn.compiling import exporting, latest
from minrnn.derivatives import transformed, value_of


def running_max(
    f: Tensor | None, i: Tensor, m0: Tensor | None = None, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return m (B, T, D), without gradient, and its last step (B, D), with that of the largest.

    f: (B, T, D), or (D,) for the same at every step, or None for zero. i: (B, T, D).
    m0: (B, D), the value before the first step; -inf where there is nothing, None for nothing at
    all. resets: (B, T) bool: nothing comes before these steps, and nothing of it is seen, NaN
    included.

    >>> import torch
    >>> m, last = running_max(torch.tensor([-1.0]), torch.tensor([[[5.0], [1.0], [2.0], [9.0]]]))
    >>> m.flatten().tolist(), last.item()
    ([5.0, 4.0, 3.0, 9.0], 9.0)
    """
    length = i.shape[1]
    if length == 1:
        last = i[:, 0]
        if m0 is not None:
            last = torch.maximum(m0 if f is None else m0 + _at(f, 0), last)
            if resets is not None:
                last = torch.where(resets, i[:, 0], last)
        return last.detach().unsqueeze(1), last
    with torch.no_grad():  # forward mode may see through it, which changes no output
        first = None if resets is None else _first(resets)
        m = (_op if _opaque(i) else _scan)(f, i, m0, resets, first)
    if transformed():
        return m, value_of(m[:, -1], _last(f, i, m0, resets, first))
    if not torch.is_grad_enabled():
        return m, m[:, -1].clone()
    graded = _last(f, i, m0, resets, first)
    return m, m[:, -1] + (graded - graded.detach())


def _scan(
    f: Tensor | None, i: Tensor, m0: Tensor | None, resets: Tensor | None, first: Tensor | None
) -> Tensor:
    # Doubling: after each pass a step has seen the `reach` steps up to it. first: (B, T).
    m = i
    if m0 is not None:
        start = torch.maximum(m0 if f is None else m0 + _at(f, 0), m[:, 0])
        start = start if resets is None else torch.where(resets[:, :1], m[:, 0], start)
        m = torch.cat([start.unsqueeze(1), m[:, 1:]], 1)
    length, reach, sums = i.shape[1], 1, f
    steps = torch.arange(length, device=i.device)
    while reach < length:
        other = m[:, :-reach]
        if sums is not None:
            other = other + (sums if sums.dim() == 1 else sums[:, reach:])
        if first is not None:
            unseen = (steps[:-reach] < first[:, reach:]).unsqueeze(-1)
            other = other.masked_fill(unseen, -torch.inf)
        m = torch.cat([m[:, :reach], torch.maximum(m[:, reach:], other)], 1)
        if sums is not None and sums.dim() == 1:
            sums = 2 * sums
        elif sums is not None:
            sums = torch.cat([sums[:, :reach], sums[:, reach:] + sums[:, :-reach]], 1)
        reach *= 2
    return m


def _opaque(i: Tensor) -> bool:
    # The passes are as many as T is long, so that a compiler would make a graph for each power of
    # two, and end at its limit of eight. On a GPU it fuses them, which is worth more.
    if not torch.compiler.is_compiling() or i.device.type != "cpu":
        return False
    return not transformed() and not exporting(i)


@torch.library.custom_op(
    "minrnn::running_max",
    mutates_args=(),
    schema="(Tensor? f, Tensor i, Tensor? m0, Tensor? resets, Tensor? first) -> Tensor",
)
def _op(
    f: Tensor | None, i: Tensor, m0: Tensor | None, resets: Tensor | None, first: Tensor | None
) -> Tensor:
    m = _scan(f, i, m0, resets, first)
    return m.clone() if m is i else m  # an op returns no input


@_op.register_fake
def _(
    f: Tensor | None, i: Tensor, m0: Tensor | None, resets: Tensor | None, first: Tensor | None
) -> Tensor:
    dtype = i.dtype
    for x in (f, m0):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    return torch.empty_like(i, dtype=dtype, memory_format=torch.contiguous_format)


def _last(
    f: Tensor | None, i: Tensor, m0: Tensor | None, resets: Tensor | None, first: Tensor | None
) -> Tensor:
    # The last m as the one term that attains it. later: the sum of f after each step.
    length = i.shape[1]
    total = later = None
    if f is not None and f.dim() == 1:
        later = f * torch.arange(length - 1, -1, -1, dtype=f.dtype, device=f.device).unsqueeze(-1)
        later, total = later.expand_as(i), length * f
    elif f is not None:
        sums = f.flip(1).cumsum(1).flip(1)
        later, total = torch.cat([sums[:, 1:], torch.zeros_like(f[:, :1])], 1), sums[:, 0]
    with torch.no_grad():
        terms = i if later is None else i + later
        if first is not None:
            steps = torch.arange(length, device=i.device)
            terms = terms.masked_fill((steps < first[:, -1:]).unsqueeze(-1), -torch.inf)
        best = terms.argmax(1, keepdim=True)
    last = i.gather(1, best)[:, 0]
    if later is not None:
        last = last + later.gather(1, best)[:, 0]
    if m0 is None:
        return last
    carried = torch.maximum(m0 if total is None else m0 + total, last)
    return carried if resets is None else torch.where(resets.any(1, keepdim=True), last, carried)


def _first(resets: Tensor) -> Tensor:
    # (B, T): the first step of each step's episode; 0 for one that started before x.
    steps = torch.arange(resets.shape[1], device=resets.device)
    return latest(torch.where(resets, steps, 0))


def _at(f: Tensor, t: int) -> Tensor:
    return f if f.dim() == 1 else f[:, t]
