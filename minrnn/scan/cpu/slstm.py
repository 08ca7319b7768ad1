# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The recurrence of sLSTM, compiled by numba. See `minrnn.scan.slstm` for the arguments.

A head of a row is a recurrence by itself: one pass over its steps, a product of a vector and a
matrix that stays in the cache, then the gates. Threads share the pairs of row and head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from numba.extending import overload
from torch import Tensor

from minrnn.scan.cpu import launch
from minrnn.scan.cpu.gates import activate, exp, sigmoids
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
    x: Tensor, r: Tensor, start: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y (B, T, H, d), and y, c, n, m after the last step (B, 4, H, d).

    Also c, n, m of each step (B, T, 3, H, d) and the pre-activations (B, T, H, 4, d).
    """
    batch, length, heads, _, size = x.shape
    y = x.new_empty(batch, length, heads, size)
    rest = x.new_empty(batch, length, 3, heads, size)
    raw = torch.empty_like(x, memory_format=torch.contiguous_format)
    given = [
        launch.ready(x, x.shape, x),
        launch.ready(r, (heads, size, 4, size), x),
        launch.ready(start, (batch, 4, heads, size), x),
    ]
    _run(_forward, x, [*given, y, rest, raw, launch.marks(resets, x)])
    return y, torch.cat([y[:, -1:], rest[:, -1]], 1), rest, raw


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    raw: Tensor,
    r: Tensor,
    start: Tensor,
    resets: Tensor | None,
    y: Tensor,
    rest: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, which is that of the pre-activations, r and start."""
    batch, length, heads, _, size = raw.shape
    grad_raw = torch.empty_like(raw, memory_format=torch.contiguous_format)
    grad_start = raw.new_empty(batch, 4, heads, size)
    given = [
        launch.optional(grad_y, y.shape, raw),
        launch.optional(grad_last, start.shape, raw),
        launch.ready(r.flatten(2).transpose(1, 2), (heads, 4 * size, size), raw),
        launch.ready(start, (batch, 4, heads, size), raw),
        launch.ready(y, (batch, length, heads, size), raw),
        launch.ready(rest, (batch, length, 3, heads, size), raw),
        launch.ready(raw, raw.shape, raw),
    ]
    _run(_backward, raw, [*given, grad_raw, grad_start, launch.marks(resets, raw)])
    before = torch.cat([start[:, :1], y[:, :-1]], 1)
    if resets is not None:
        before = before.masked_fill(resets[..., None, None], 0.0)
    rows, columns = before.flatten(0, 1), grad_raw.flatten(3).flatten(0, 1)  # (B T, H, ...)
    with torch.autocast("cpu", enabled=False):
        grad_r = rows.permute(1, 2, 0) @ columns.transpose(0, 1)
    return grad_raw, grad_r.view(r.shape), grad_start


def _run(
    kernel: Callable[[str], Callable[..., None]], x: Tensor, tensors: list[Tensor | None]
) -> None:
    batch, length, heads, _, size = x.shape
    # Threads share the pairs of row and head. A step of one unit costs as much as eight of a
    # scan, and an eighth more for each unit of its head.
    pairs = batch * heads
    parts = launch.parts(pairs, 1, pairs * length * size * (8 + size // 8))
    ranges = [(first, end) for first, end, _, _ in parts]
    scratch = x.new_empty(len(parts), 4 * size)
    launch.run(kernel(launch.stored(x)), ranges, (length, heads, size), tensors, [scratch])


@functools.cache
def _forward(WIDE: str) -> Callable[..., None]:
    lanes = launch.lanes(WIDE)
    sources = launch.sources()

    @launch.jit
    def kernel(p0, p1, T, H, d, x, r, start, y, rest, raw, resets, s):
        assert sources
        has_resets = resets != 0
        x, r, start, y = at(x, WIDE), at(r, WIDE), at(start, WIDE), at(y, WIDE)
        rest, raw, s = at(rest, WIDE), at(raw, WIDE), at(s, WIDE)
        marks = at(resets, "bool")
        line, lane = line_of(y), lane_of(y)
        many, wide = d // lanes * lanes, 4 * d // lanes * lanes
        blocks = 4 * d // (4 * lanes) * (4 * lanes)
        for p in range(p0, p1):
            b, h = p // H, p % H
            for leaf in range(4):
                for j in range(d):
                    s[leaf * d + j] = start[((b * 4 + leaf) * H + h) * d + j]
            own = h * d * 4 * d
            for t in range(T):
                if has_resets and flag(marks, b * T + t):
                    for j in range(4 * d):
                        store(s, j, lane)
                o = ((b * T + t) * H + h) * d
                go = 4 * o
                for k in range(0, blocks, 4 * lanes):
                    _four_columns(x, go + k, r, own + k, s, d, lanes, raw, line)
                for k in range(blocks, wide, lanes):
                    _column(x, go + k, r, own + k, s, d, raw, line)
                for k in range(wide, 4 * d):
                    _column(x, go + k, r, own + k, s, d, raw, lane)
                ro = ((b * T + t) * 3 * H + h) * d
                for j in range(0, many, lanes):
                    _advance(raw, go + j, d, s, j, y, o + j, rest, ro + j, H * d, line)
                for j in range(many, d):
                    _advance(raw, go + j, d, s, j, y, o + j, rest, ro + j, H * d, lane)

    return kernel


@functools.cache
def _backward(WIDE: str) -> Callable[..., None]:
    lanes = launch.lanes(WIDE)
    sources = launch.sources()

    @launch.jit
    def kernel(p0, p1, T, H, d, gy, gl, r, start, y, rest, raw, graw, gstart, resets, s):
        assert sources
        has_resets, has_gy, has_gl = resets != 0, gy != 0, gl != 0
        gy, gl, r, start = at(gy, WIDE), at(gl, WIDE), at(r, WIDE), at(start, WIDE)
        y, rest, raw, s = at(y, WIDE), at(rest, WIDE), at(raw, WIDE), at(s, WIDE)
        graw, gstart = at(graw, WIDE), at(gstart, WIDE)
        marks = at(resets, "bool")
        line, lane = line_of(y), lane_of(y)
        many = d // lanes * lanes
        for p in range(p0, p1):
            b, h = p // H, p % H
            first = (b * 4 * H + h) * d  # of the start, leaves H d apart
            for leaf in range(4):
                for j in range(d):
                    place = first + leaf * H * d + j
                    s[leaf * d + j] = gl[place] if has_gl else 0.0
            own = h * 4 * d * d
            for t in range(T - 1, -1, -1):
                o = ((b * T + t) * H + h) * d
                go = 4 * o
                ro = ((b * T + t) * 3 * H + h) * d
                reset = has_resets and flag(marks, b * T + t)
                before, po = rest, ro - 3 * H * d
                if t == 0:
                    before, po = start, first + H * d
                for j in range(0, many, lanes):
                    _retreat(
                        raw, go + j, d, has_gy, gy, y, o + j, rest, ro + j,
                        before, po + j, H * d, reset, graw, s, j, line,
                    )  # fmt: skip
                for j in range(many, d):
                    _retreat(
                        raw, go + j, d, has_gy, gy, y, o + j, rest, ro + j,
                        before, po + j, H * d, reset, graw, s, j, lane,
                    )  # fmt: skip
                if reset:
                    for j in range(d):
                        store(s, j, lane)
                else:
                    for j in range(0, many, lanes):
                        _row(r, own + j, graw, go, s, j, d, line)
                    for j in range(many, d):
                        _row(r, own + j, graw, go, s, j, d, lane)
            for leaf in range(4):
                for j in range(d):
                    gstart[first + leaf * H * d + j] = s[leaf * d + j]

    return kernel


@inline
def _column(x, xo, r, ro, s, d, raw, like):
    # x and the product of y and as many columns of the matrix as fit a vector.
    total = load(x, xo, like)
    for j in range(d):
        total = total + full(s[j], like) * load(r, ro + j * 4 * d, like)
    store(raw, xo, total)


@inline
def _four_columns(x, xo, r, ro, s, d, lanes, raw, like):
    # Four vectors at once, so that sums do not wait for each other.
    a, b = load(x, xo, like), load(x, xo + lanes, like)
    c, e = load(x, xo + 2 * lanes, like), load(x, xo + 3 * lanes, like)
    for j in range(d):
        y, row = full(s[j], like), ro + j * 4 * d
        a = a + y * load(r, row, like)
        b = b + y * load(r, row + lanes, like)
        c = c + y * load(r, row + 2 * lanes, like)
        e = e + y * load(r, row + 3 * lanes, like)
    store(raw, xo, a)
    store(raw, xo + lanes, b)
    store(raw, xo + 2 * lanes, c)
    store(raw, xo + 3 * lanes, e)


@inline
def _row(r, ro, graw, go, s, j, d, like):
    # The gradient by y of the step before: the transposed matrix times that of the pre-activations.
    a, b, c, e = full(0.0, like), full(0.0, like), full(0.0, like), full(0.0, like)
    for k in range(0, 4 * d, 4):
        row = ro + k * d
        a = a + full(graw[go + k], like) * load(r, row, like)
        b = b + full(graw[go + k + 1], like) * load(r, row + d, like)
        c = c + full(graw[go + k + 2], like) * load(r, row + 2 * d, like)
        e = e + full(graw[go + k + 3], like) * load(r, row + 3 * d, like)
    store(s, j, (a + b) + (c + e))


@inline
def _advance(raw, go, d, s, j, y, o, rest, ro, leaf, like):
    # One step: y, c, n, m in s, from the pre-activations i, f, z, o, which are d apart.
    n = load(s, 2 * d + j, like)
    m, enter, forget, _, _ = _gates(
        load(raw, go, like), load(raw, go + d, like), n, load(s, 3 * d + j, like)
    )
    z, _ = activate(1, load(raw, go + 2 * d, like))
    _, out = sigmoids(load(raw, go + 3 * d, like))
    c = forget * load(s, d + j, like) + enter * z
    n = forget * n + enter
    value = out * c / n
    store(y, o, value)
    store(rest, ro, c)
    store(rest, ro + leaf, n)
    store(rest, ro + 2 * leaf, m)
    store(s, j, value)
    store(s, d + j, c)
    store(s, 2 * d + j, n)
    store(s, 3 * d + j, m)


@inline
def _retreat(raw, go, d, has_gy, gy, y, o, rest, ro, before, po, leaf, reset, graw, s, j, like):
    # s holds the gradients by y, c, n, m, and gets those by c, n, m of the step before.
    zero = full(0.0, like)
    c0 = zero if reset else load(before, po, like)
    n0 = zero if reset else load(before, po + leaf, like)
    m0 = zero if reset else load(before, po + 2 * leaf, like)
    _, enter, forget, rest_f, carried = _gates(load(raw, go, like), load(raw, go + d, like), n0, m0)
    z, slope = activate(1, load(raw, go + 2 * d, like))
    closed, out = sigmoids(load(raw, go + 3 * d, like))
    c, n = load(rest, ro, like), load(rest, ro + leaf, like)
    grad_y = load(s, j, like) + load(gy, o, like) if has_gy else load(s, j, like)
    through = grad_y * out / n
    grad_c = load(s, d + j, like) + through
    grad_n = load(s, 2 * d + j, like) - through * (c / n)
    by_forget = (grad_c * c0 + grad_n * n0) * forget
    by_enter = (grad_c * z + grad_n) * enter
    # The larger of i and log f + m is the scale, and its gate is one.
    grad_m = load(s, 3 * d + j, like)
    grad_i = where(carried, by_enter, grad_m - by_forget)
    grad_l = where(carried, grad_m - by_enter, by_forget)
    store(graw, go, grad_i)
    store(graw, go + d, grad_l * rest_f)
    store(graw, go + 2 * d, grad_c * enter * slope)
    store(graw, go + 3 * d, through * c * closed)
    store(s, d + j, zero if reset else grad_c * forget)
    store(s, 2 * d + j, zero if reset else grad_n * forget)
    store(s, 3 * d + j, zero if reset else grad_l)


@inline
def _gates(i, f, n, m):
    # The scale, input and forget gate, 1 - sigmoid(f), and whether the scale is the carried one.
    e = exp(negative_magnitude(f))
    rest_f, _ = sigmoids(f)
    zero = full(0.0, f)
    kept = where(f < 0.0, f, zero) - _log1p(e) + m
    ratio = exp(negative_magnitude(kept - i))
    carried = i < kept
    one = full(1.0, f)
    new = n < 1e-30  # n is 0 in an empty state, and at least 1 elsewhere
    scale = where(new, i, where(carried, kept, i))
    enter = where(new, one, where(carried, ratio, one))
    forget = where(new, zero, where(carried, one, ratio))
    none = where(new, zero, one)
    return scale, enter, forget, rest_f, where(carried, none, zero) > 0.0


@inline
def _log1p(x):
    # For 0 <= x <= 1: 2 artanh(s) with s = x / (2 + x) <= 1 / 3, by its series.
    s = x / (2.0 + x)
    square = s * s
    last = _terms(x)
    total = full(1.0 / (2 * last + 1), x)
    for term in range(last - 1, -1, -1):
        total = total * square + 1.0 / (2 * term + 1)
    return 2.0 * s * total


def _terms(x) -> int:
    """Return the last term of the series that counts: 9^-last is nothing next to 1."""
    raise NotImplementedError


@overload(_terms)
def _terms_overload(x):
    last = 16 if x.dtype.bitwidth == 64 else 7
    return lambda x: last
