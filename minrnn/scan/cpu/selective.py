# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The selective scan on a CPU: h is never written for more than a chunk of time.

Serial over time, in vectors over channels; decays and inputs are made where they are used. The
backward pass starts each chunk from its first state, which the forward pass kept, and makes the
others again. Arguments of the kernels are addresses (0: not there) of contiguous numbers of one
dtype: u, dt (B, T, D), a (N, D), b, c (B, T, N), h0 and last (B, N, D), resets (B, T), points
(B, chunks, N, D); see `minrnn.scan.selective` for what they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from minrnn.scan.cpu import launch
from minrnn.scan.cpu.gates import exp
from minrnn.scan.cpu.simd import LINE, at, flag, full, inline, lane_of, line_of, load, store
from minrnn.scan.selective import CHUNK


def forward(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (B, T, D), last (B, D, N), and what the backward pass starts from, if `keep`."""
    batch, time, width = u.shape
    number = a.shape[1]
    chunks = -(-time // CHUNK)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last = u.new_empty(batch, number, width)
    points = u.new_empty(batch, chunks if keep else 0, number, width)
    given = _given(u, dt, a, b, c, h0, resets)
    parts = launch.parts(batch, width, u.numel() * number)
    scratch = u.new_empty(len(parts), 2 * number * LINE)
    sizes = time, width, number, chunks, int(keep)
    compiled = _forward(launch.stored(u))
    launch.run(compiled, parts, sizes, (*given, y, last, points), [scratch])
    return y, last.transpose(1, 2).contiguous(), points


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    points: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of u, dt, a, b, c and h0."""
    batch, time, width = u.shape
    number = a.shape[1]
    chunks = -(-time // CHUNK)
    grad_y = torch.zeros_like(u) if grad_y is None else grad_y
    given = [
        launch.ready(grad_y, u.shape, u),
        *_given(u, dt, a, b, c, h0, resets),
        launch.ready(points, (batch, chunks, number, width), u),
    ]
    # Carried from chunk to chunk; the gradient of h0 in the end.
    carried = u.new_zeros(batch, number, width)
    if grad_last is not None:
        carried.copy_(grad_last.transpose(1, 2))
    grad_u, grad_dt = (torch.empty(u.shape, dtype=u.dtype) for _ in range(2))
    parts = launch.parts(batch, width, u.numel() * number)
    # Sums that threads would share: each has its own.
    grad_a = u.new_zeros(len(parts), number, width)
    over_width = len({part[2:] for part in parts})
    grad_b, grad_c = (u.new_empty(over_width, batch, time, number) for _ in range(2))
    scratch = u.new_empty(len(parts), (3 + 4 * CHUNK + 1) * number * LINE)
    sizes = time, width, number, chunks
    own = grad_a, grad_b, grad_c, scratch
    compiled = _backward(launch.stored(u))
    launch.run(compiled, parts, sizes, (*given, carried, grad_u, grad_dt), own)
    return (
        grad_u,
        grad_dt,
        grad_a.sum(0).t().contiguous(),
        grad_b.sum(0),
        grad_c.sum(0),
        None if h0 is None else carried.transpose(1, 2).contiguous(),
    )


def _given(
    u: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
) -> list[Tensor | None]:
    batch, time, width = u.shape
    number = a.shape[-1]
    return [
        launch.ready(u, u.shape, u),
        launch.ready(dt, u.shape, u),
        launch.ready(a.t(), (number, width), u),
        launch.ready(b, (batch, time, number), u),
        launch.ready(c, (batch, time, number), u),
        None if h0 is None else launch.ready(h0.transpose(1, 2), (batch, number, width), u),
        launch.marks(resets, u),
    ]


@functools.cache
def _forward(DTYPE: str) -> Callable[..., None]:
    lanes = launch.lanes(DTYPE)
    sources = launch.sources("selective.py")

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, N, chunks, keep, u, dt, a, b, c, h0, resets, y, last, points, scratch
    ):
        assert sources
        has_h0, has_resets = h0 != 0, resets != 0
        u, dt, a, b, c = at(u, DTYPE), at(dt, DTYPE), at(a, DTYPE), at(b, DTYPE), at(c, DTYPE)
        h0, y, last, points = at(h0, DTYPE), at(y, DTYPE), at(last, DTYPE), at(points, DTYPE)
        s, marks = at(scratch, DTYPE), at(resets, "bool")
        line, lane = line_of(u), lane_of(u)
        many = d0 + (d1 - d0) // lanes * lanes
        for row in range(b0, b1):
            for chunk in range(chunks):
                for d in range(d0, many, lanes):
                    _chunk(
                        line, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets, keep,
                        u, dt, a, b, c, h0, marks, y, last, points, s,
                    )  # fmt: skip
                for d in range(many, d1):
                    _chunk(
                        lane, 1, row, chunk, d, T, D, N, chunks, has_h0, has_resets, keep,
                        u, dt, a, b, c, h0, marks, y, last, points, s,
                    )  # fmt: skip

    return kernel


@inline
def _chunk(
    like, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets, keep,
    u, dt, a, b, c, h0, marks, y, last, points, s,
):  # fmt: skip
    # s: a, then h, of these channels.
    state = N * lanes
    for n in range(N):
        store(s, n * lanes, load(a, n * D + d, like))
        place = (row * N + n) * D + d
        if chunk > 0:
            h = load(last, place, like)
        elif has_h0:
            h = load(h0, place, like)
        else:
            h = full(0.0, like)
        store(s, state + n * lanes, h)
        if keep:
            store(points, ((row * chunks + chunk) * N + n) * D + d, h)
    for t in range(chunk * CHUNK, min(T, (chunk + 1) * CHUNK)):
        here = row * T + t
        seen = (has_h0 or t > 0) and not (has_resets and flag(marks, here))
        step = load(dt, here * D + d, like)
        entering = step * load(u, here * D + d, like)
        total = full(0.0, like)
        for n in range(N):
            h = entering * full(b[here * N + n], like)
            if seen:  # where nothing is, the decay is not looked at
                decay = exp(step * load(s, n * lanes, like))
                h = decay * load(s, state + n * lanes, like) + h
            store(s, state + n * lanes, h)
            total = h * full(c[here * N + n], like) + total
        store(y, here * D + d, total)
    for n in range(N):
        store(last, (row * N + n) * D + d, load(s, state + n * lanes, like))


@functools.cache
def _backward(DTYPE: str) -> Callable[..., None]:
    lanes = launch.lanes(DTYPE)
    sources = launch.sources("selective.py")

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, N, chunks, gy, u, dt, a, b, c, h0, resets, points,
        carried, gu, gdt, ga, gb, gc, scratch,
    ):  # fmt: skip
        assert sources
        has_h0, has_resets = h0 != 0, resets != 0
        u, dt, a, b, c = at(u, DTYPE), at(dt, DTYPE), at(a, DTYPE), at(b, DTYPE), at(c, DTYPE)
        gy, gu, gdt, points = at(gy, DTYPE), at(gu, DTYPE), at(gdt, DTYPE), at(points, DTYPE)
        ga, gb, gc, carried = at(ga, DTYPE), at(gb, DTYPE), at(gc, DTYPE), at(carried, DTYPE)
        s, marks = at(scratch, DTYPE), at(resets, "bool")
        line, lane = line_of(u), lane_of(u)
        many = d0 + (d1 - d0) // lanes * lanes
        sums = (3 + 2 * CHUNK + 1) * N * lanes  # of gb, gc by lane, after what _chunk_back uses
        for row in range(b0, b1):
            for chunk in range(chunks - 1, -1, -1):
                for i in range(2 * CHUNK * N):
                    store(s, sums + i * lanes, full(0.0, line))
                for d in range(d0, many, lanes):
                    _chunk_back(
                        line, lanes, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets,
                        gy, u, dt, a, b, c, marks, points, carried, gu, gdt, ga, s, sums,
                    )  # fmt: skip
                for d in range(many, d1):
                    _chunk_back(
                        lane, 1, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets,
                        gy, u, dt, a, b, c, marks, points, carried, gu, gdt, ga, s, sums,
                    )  # fmt: skip
                first = chunk * CHUNK
                for i in range((min(T, first + CHUNK) - first) * N):
                    by_b, by_c = s[sums + i * lanes], s[sums + (CHUNK * N + i) * lanes]
                    for j in range(1, lanes):
                        by_b += s[sums + i * lanes + j]
                        by_c += s[sums + (CHUNK * N + i) * lanes + j]
                    gb[(row * T + first) * N + i] = by_b
                    gc[(row * T + first) * N + i] = by_c

    return kernel


@inline
def _chunk_back(
    like, lanes, stride, row, chunk, d, T, D, N, chunks, has_h0, has_resets,
    gy, u, dt, a, b, c, marks, points, carried, gu, gdt, ga, s, sums,
):  # fmt: skip
    # s: a, the gradients of h and of a, h before each step and after the last, the decays.
    first, stop = chunk * CHUNK, min(T, (chunk + 1) * CHUNK)
    unit = N * lanes
    grads, grads_a, states, decays = unit, 2 * unit, 3 * unit, (3 + CHUNK + 1) * unit
    for n in range(N):
        i = n * lanes
        store(s, i, load(a, n * D + d, like))
        store(s, grads + i, load(carried, (row * N + n) * D + d, like))
        store(s, grads_a + i, load(ga, n * D + d, like))
        store(s, states + i, load(points, ((row * chunks + chunk) * N + n) * D + d, like))
    for t in range(first, stop):
        here, k = row * T + t, (t - first) * unit
        seen = (has_h0 or t > 0) and not (has_resets and flag(marks, here))
        step = load(dt, here * D + d, like)
        entering = step * load(u, here * D + d, like)
        for n in range(N):
            i = k + n * lanes
            h = entering * full(b[here * N + n], like)
            if seen:
                decay = exp(step * load(s, n * lanes, like))
                store(s, decays + i, decay)
                h = decay * load(s, states + i, like) + h
            store(s, states + unit + i, h)
    for t in range(stop - 1, first - 1, -1):
        here, k = row * T + t, (t - first) * unit
        seen = (has_h0 or t > 0) and not (has_resets and flag(marks, here))
        step, x = load(dt, here * D + d, like), load(u, here * D + d, like)
        g = load(gy, here * D + d, like)
        entering = step * x
        by_entering, by_step = full(0.0, like), full(0.0, like)
        for n in range(N):
            i, j = n * lanes, sums + ((t - first) * N + n) * stride
            grad = g * full(c[here * N + n], like) + load(s, grads + i, like)
            store(s, j, grad * entering + load(s, j, like))
            j += CHUNK * N * stride
            store(s, j, g * load(s, states + unit + k + i, like) + load(s, j, like))
            by_entering = grad * full(b[here * N + n], like) + by_entering
            if seen:
                grad = grad * load(s, decays + k + i, like)
                by_power = grad * load(s, states + k + i, like)
                by_step = by_power * load(s, i, like) + by_step
                store(s, grads_a + i, by_power * step + load(s, grads_a + i, like))
                store(s, grads + i, grad)
            else:
                store(s, grads + i, full(0.0, like))
        store(gu, here * D + d, by_entering * step)
        store(gdt, here * D + d, by_entering * x + by_step)
    for n in range(N):
        store(carried, (row * N + n) * D + d, load(s, grads + n * lanes, like))
        store(ga, n * D + d, load(s, grads_a + n * lanes, like))
