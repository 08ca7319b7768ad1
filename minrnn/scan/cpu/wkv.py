# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""RWKV's averages on a CPU, compiled: serial over time, in vectors over channels.

Arguments of the kernels are addresses (0: not there) of contiguous numbers of one dtype: k, v, o
(B, T, D), w, u (D,), start and last (B, 3, D), states (B, T, 3, D), resets (B, T), for which see
`minrnn.scan.wkv`; of gradients the same, those of w and u (B, D), for each row of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from minrnn.scan.cpu import launch
from minrnn.scan.cpu.gates import exp
from minrnn.scan.cpu.simd import (
    at,
    flag,
    full,
    inline,
    lane_of,
    line_of,
    load,
    negative_magnitude,
    store,
    where,
)


def forward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return o (B, T, D), a, b, p after the last step (B, 3, D), and after each (B, T, 3, D)."""
    batch, length, width = k.shape
    o = torch.empty_like(k, memory_format=torch.contiguous_format)
    states = k.new_empty(batch, length, 3, width)
    _run(_forward, k, [*_given(k, v, w, u, start, resets), o, states])
    return o, states[:, -1].clone(), states


def backward(
    grad_o: Tensor | None,
    grad_last: Tensor | None,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    start: Tensor,
    resets: Tensor | None,
    o: Tensor,
    states: Tensor,
) -> list[Tensor]:
    """Return the gradients of k, v, w, u and start."""
    batch, length, width = k.shape
    given = _given(k, v, w, u, start, resets)
    given += [launch.ready(o, k.shape, k), launch.ready(states, (batch, length, 3, width), k)]
    given += [launch.optional(grad_o, k.shape, k), launch.optional(grad_last, start.shape, k)]
    grads = [torch.empty_like(k, memory_format=torch.contiguous_format) for _ in "kv"]
    grads += [k.new_zeros(batch, width) for _ in "wu"]
    grads.append(k.new_empty(batch, 3, width))
    _run(_backward, k, [*given, *grads])
    grads[2:4] = [grad.sum(0) for grad in grads[2:4]]
    return grads


def _given(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, start: Tensor, resets: Tensor | None
) -> list[Tensor | None]:
    batch, _, width = k.shape
    return [
        launch.ready(k, k.shape, k),
        launch.ready(v, k.shape, k),
        launch.ready(w, (width,), k),
        launch.ready(u, (width,), k),
        launch.ready(start, (batch, 3, width), k),
        launch.marks(resets, k),
    ]


def _run(
    kernel: Callable[[str], Callable[..., None]], k: Tensor, tensors: list[Tensor | None]
) -> None:
    batch, length, width = k.shape
    parts = launch.parts(batch, width, 8 * k.numel())  # a step costs as much as eight of a scan
    launch.run(kernel(launch.stored(k)), parts, (length, width), tensors)


@functools.cache
def _forward(WIDE: str) -> Callable[..., None]:
    lanes = launch.lanes(WIDE)
    sources = launch.sources()

    @launch.jit
    def kernel(b0, b1, d0, d1, T, D, k, v, w, u, start, resets, o, states):
        assert sources
        has_resets = resets != 0
        k, v, w, u = at(k, WIDE), at(v, WIDE), at(w, WIDE), at(u, WIDE)
        start, o, states = at(start, WIDE), at(o, WIDE), at(states, WIDE)
        marks = at(resets, "bool")
        line, lane = line_of(o), lane_of(o)
        many = d0 + (d1 - d0) // lanes * lanes
        for b in range(b0, b1):
            for t in range(T):
                x = (b * T + t) * D
                reset = has_resets and flag(marks, b * T + t)
                before, at_before = states, 3 * (x - D)
                if t == 0:
                    before, at_before = start, 3 * b * D
                for d in range(d0, many, lanes):
                    _step(k, v, x, w, u, d, before, at_before, D, reset, o, states, line)
                for d in range(many, d1):
                    _step(k, v, x, w, u, d, before, at_before, D, reset, o, states, lane)

    return kernel


@functools.cache
def _backward(WIDE: str) -> Callable[..., None]:
    lanes = launch.lanes(WIDE)
    sources = launch.sources()

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, k, v, w, u, start, resets, o, states, go, gl, gk, gv, gw, gu, gs
    ):
        assert sources
        has_resets, has_go, has_gl = resets != 0, go != 0, gl != 0
        k, v, w, u = at(k, WIDE), at(v, WIDE), at(w, WIDE), at(u, WIDE)
        start, o, states = at(start, WIDE), at(o, WIDE), at(states, WIDE)
        go, gl, gk, gv = at(go, WIDE), at(gl, WIDE), at(gk, WIDE), at(gv, WIDE)
        gw, gu, gs = at(gw, WIDE), at(gu, WIDE), at(gs, WIDE)
        marks = at(resets, "bool")
        line, lane = line_of(o), lane_of(o)
        many = d0 + (d1 - d0) // lanes * lanes
        for b in range(b0, b1):
            for leaf in range(3):
                for d in range(d0, d1):
                    place = (b * 3 + leaf) * D + d
                    gs[place] = gl[place] if has_gl else 0.0
            for t in range(T - 1, -1, -1):
                x = (b * T + t) * D
                reset = has_resets and flag(marks, b * T + t)
                before, at_before = states, 3 * (x - D)
                if t == 0:
                    before, at_before = start, 3 * b * D
                for d in range(d0, many, lanes):
                    _step_back(
                        k, v, x, w, u, d, before, at_before, D, reset, o,
                        has_go, go, gk, gv, gw, gu, b * D, gs, line,
                    )  # fmt: skip
                for d in range(many, d1):
                    _step_back(
                        k, v, x, w, u, d, before, at_before, D, reset, o,
                        has_go, go, gk, gv, gw, gu, b * D, gs, lane,
                    )  # fmt: skip

    return kernel


@inline
def _step(k, v, x, w, u, d, before, at_before, D, reset, o, states, like):
    a, b, p = _before(before, at_before + d, D, reset, like)
    key, value = load(k, x + d, like), load(v, x + d, like)
    _, old, new, _ = _weights(p, key + load(u, d, like), b)
    store(o, x + d, (old * a + new * value) / (old * b + new))
    p, old, new, _ = _weights(p + load(w, d, like), key, b)
    store(states, 3 * x + d, old * a + new * value)
    store(states, 3 * x + D + d, old * b + new)
    store(states, 3 * x + 2 * D + d, p)


@inline
def _step_back(
    k, v, x, w, u, d, before, at_before, D, reset, o, has_go, go, gk, gv, gw, gu, row, gs, like
):
    # gs holds the gradients by a, b, p after the step, and gets those before it.
    a, b, p = _before(before, at_before + d, D, reset, like)
    key, value = load(k, x + d, like), load(v, x + d, like)
    # The output: the scale cancels, so that only the two terms have a gradient.
    _, old, new, _ = _weights(p, key + load(u, d, like), b)
    mean = load(o, x + d, like)
    grad = load(go, x + d, like) if has_go else full(0.0, like)
    grad = grad / (old * b + new)
    by_bonus = grad * (value - mean) * new
    by_a, by_b = grad * old, -grad * mean * old
    by_p = grad * (a - mean * b) * old
    by_value = grad * new
    # The state: the larger of its two terms is the scale.
    _, old, new, carried = _weights(p + load(w, d, like), key, b)
    at_a, at_b, at_p = 3 * row + d, 3 * row + D + d, 3 * row + 2 * D + d
    grad_a, grad_b, grad_p = load(gs, at_a, like), load(gs, at_b, like), load(gs, at_p, like)
    by_old = (grad_a * a + grad_b * b) * old
    by_new = (grad_a * value + grad_b) * new
    by_decay = where(carried, grad_p - by_new, by_old)
    by_key = where(carried, by_new, grad_p - by_old)
    store(gk, x + d, by_bonus + by_key)
    store(gv, x + d, by_value + grad_a * new)
    store(gu, row + d, load(gu, row + d, like) + by_bonus)
    store(gw, row + d, load(gw, row + d, like) + by_decay)
    zero = full(0.0, like)
    store(gs, at_a, zero if reset else by_a + grad_a * old)
    store(gs, at_b, zero if reset else by_b + grad_b * old)
    store(gs, at_p, zero if reset else by_p + by_decay)


@inline
def _before(before, place, D, reset, like):
    zero = full(0.0, like)
    a = zero if reset else load(before, place, like)
    b = zero if reset else load(before, place + D, like)
    p = zero if reset else load(before, place + 2 * D, like)
    return a, b, p


@inline
def _weights(old, new, b):
    # The larger exponent, e to what both are over it, and whether the old one is the larger.
    # b is 0 in an empty state, and at least 1 elsewhere.
    zero, one = full(0.0, b), full(1.0, b)
    ratio = exp(negative_magnitude(old - new))
    larger = new < old
    empty = b < 1e-30
    scale = where(empty, new, where(larger, old, new))
    first = where(empty, zero, where(larger, one, ratio))
    second = where(empty, one, where(larger, ratio, one))
    return scale, first, second, where(larger, where(empty, zero, one), zero) > 0.0
