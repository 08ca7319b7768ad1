# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The diagonal linear system on a CPU: h is never written for more than a chunk of time.

Serial over time, in vectors over channels. The backward pass starts each chunk from its first
state, which the forward pass kept, and makes the others again. Arguments of the kernels are
addresses (0: not there) of contiguous numbers of one dtype: u (B, T, D), decay and weight
(2, N, D), real and imaginary parts, h0 and last (B, 2, N, D), resets (B, T), points
(B, chunks, 2, N, D); see `minrnn.scan.diagonal` for what they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from minrnn.scan.cpu import launch
from minrnn.scan.cpu.simd import LINE, at, flag, full, inline, lane_of, line_of, load, store
from minrnn.scan.diagonal import CHUNK


def forward(
    u: Tensor,
    decay: Tensor,
    weight: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, last (B, D, N, 2), and what the backward pass starts from, if `keep`."""
    batch, time, width = u.shape
    number = decay.shape[1]
    chunks = -(-time // CHUNK)
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last = u.new_empty(batch, 2, number, width)
    points = u.new_empty(batch, chunks if keep else 0, 2, number, width)
    given = _given(u, decay, weight, h0, resets)
    parts = launch.parts(batch, width, u.numel() * number)
    scratch = u.new_empty(len(parts), 6 * number * LINE)
    sizes = time, width, number, chunks, int(keep)
    compiled = _forward(launch.stored(u))
    launch.run(compiled, parts, sizes, (*given, y, last, points), [scratch])
    return y, last.permute(0, 3, 2, 1).contiguous(), points


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    decay: Tensor,
    weight: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
    points: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of u, decay, weight and h0."""
    batch, time, width = u.shape
    number = decay.shape[1]
    chunks = -(-time // CHUNK)
    grad_y = torch.zeros_like(u) if grad_y is None else grad_y
    given = [
        launch.ready(grad_y, u.shape, u),
        *_given(u, decay, weight, h0, resets),
        launch.ready(points, (batch, chunks, 2, number, width), u),
    ]
    # Carried from chunk to chunk; the gradient of h0 in the end.
    carried = u.new_zeros(batch, 2, number, width)
    if grad_last is not None:
        carried.copy_(grad_last.permute(0, 3, 2, 1))
    grad_u = torch.empty(u.shape, dtype=u.dtype)
    parts = launch.parts(batch, width, u.numel() * number)
    # Sums that threads would share: each has its own.
    sums = u.new_zeros(2, len(parts), 2, number, width)
    scratch = u.new_empty(len(parts), (10 + 2 * (CHUNK + 1)) * number * LINE)
    sizes = time, width, number, chunks
    compiled = _backward(launch.stored(u))
    launch.run(compiled, parts, sizes, (*given, carried, grad_u), (*sums, scratch))
    grad_decay, grad_weight = sums.sum(1).permute(0, 3, 2, 1).contiguous()
    return (
        grad_u,
        grad_decay,
        grad_weight.clone(),  # an op returns no two views of one tensor
        None if h0 is None else carried.permute(0, 3, 2, 1).contiguous(),
    )


def _given(
    u: Tensor, decay: Tensor, weight: Tensor, h0: Tensor | None, resets: Tensor | None
) -> list[Tensor | None]:
    batch, _, width = u.shape
    parts = 2, decay.shape[1], width
    return [
        launch.ready(u, u.shape, u),
        launch.ready(decay.permute(2, 1, 0), parts, u),
        launch.ready(weight.permute(2, 1, 0), parts, u),
        None if h0 is None else launch.ready(h0.permute(0, 3, 2, 1), (batch, *parts), u),
        launch.marks(resets, u),
    ]


@functools.cache
def _forward(DTYPE: str) -> Callable[..., None]:
    lanes = launch.lanes(DTYPE)
    sources = launch.sources("diagonal.py")

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, N, chunks, keep, u, decay, weight, h0, resets,
        y, last, points, scratch,
    ):  # fmt: skip
        assert sources
        has_h0, has_resets = h0 != 0, resets != 0
        u, decay, weight = at(u, DTYPE), at(decay, DTYPE), at(weight, DTYPE)
        h0, y, last, points = at(h0, DTYPE), at(y, DTYPE), at(last, DTYPE), at(points, DTYPE)
        s, marks = at(scratch, DTYPE), at(resets, "bool")
        line, lane = line_of(u), lane_of(u)
        many = d0 + (d1 - d0) // lanes * lanes
        for row in range(b0, b1):
            for chunk in range(chunks):
                for d in range(d0, many, lanes):
                    _chunk(
                        line, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets, keep,
                        u, decay, weight, h0, marks, y, last, points, s,
                    )  # fmt: skip
                for d in range(many, d1):
                    _chunk(
                        lane, 1, row, chunk, d, T, D, N, chunks, has_h0, has_resets, keep,
                        u, decay, weight, h0, marks, y, last, points, s,
                    )  # fmt: skip

    return kernel


@inline
def _chunk(
    like, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets, keep,
    u, decay, weight, h0, marks, y, last, points, s,
):  # fmt: skip
    # s: decay, weight and h of these channels, the real and the imaginary parts of each.
    part = N * lanes
    weights, states = 2 * part, 4 * part
    for n in range(2 * N):
        i = n * lanes
        store(s, i, load(decay, n * D + d, like))
        store(s, weights + i, load(weight, n * D + d, like))
        place = (row * 2 * N + n) * D + d
        if chunk > 0:
            h = load(last, place, like)
        elif has_h0:
            h = load(h0, place, like)
        else:
            h = full(0.0, like)
        store(s, states + i, h)
        if keep:
            store(points, ((row * chunks + chunk) * 2 * N + n) * D + d, h)
    for t in range(chunk * CHUNK, min(T, (chunk + 1) * CHUNK)):
        here = row * T + t
        x = load(u, here * D + d, like)
        total = full(0.0, like)
        if (has_h0 or t > 0) and not (has_resets and flag(marks, here)):
            for n in range(N):
                i = n * lanes
                p, q = load(s, i, like), load(s, part + i, like)
                real, imag = load(s, states + i, like), load(s, states + part + i, like)
                new = p * real + (x - q * imag)
                imag = p * imag + q * real
                store(s, states + i, new)
                store(s, states + part + i, imag)
                total = load(s, weights + i, like) * new + total
                total = total - load(s, weights + part + i, like) * imag
        else:
            for n in range(N):
                i = n * lanes
                store(s, states + i, x)
                store(s, states + part + i, full(0.0, like))
                total = load(s, weights + i, like) * x + total
        store(y, here * D + d, total)
    for n in range(2 * N):
        store(last, (row * 2 * N + n) * D + d, load(s, states + n * lanes, like))


@functools.cache
def _backward(DTYPE: str) -> Callable[..., None]:
    lanes = launch.lanes(DTYPE)
    sources = launch.sources("diagonal.py")

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, N, chunks, gy, u, decay, weight, h0, resets, points,
        carried, gu, gd, gw, scratch,
    ):  # fmt: skip
        assert sources
        has_h0, has_resets = h0 != 0, resets != 0
        u, decay, weight = at(u, DTYPE), at(decay, DTYPE), at(weight, DTYPE)
        gy, gu, gd, gw = at(gy, DTYPE), at(gu, DTYPE), at(gd, DTYPE), at(gw, DTYPE)
        points, carried = at(points, DTYPE), at(carried, DTYPE)
        s, marks = at(scratch, DTYPE), at(resets, "bool")
        line, lane = line_of(u), lane_of(u)
        many = d0 + (d1 - d0) // lanes * lanes
        for row in range(b0, b1):
            for chunk in range(chunks - 1, -1, -1):
                for d in range(d0, many, lanes):
                    _chunk_back(
                        line, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets,
                        gy, u, decay, weight, marks, points, carried, gu, gd, gw, s,
                    )  # fmt: skip
                for d in range(many, d1):
                    _chunk_back(
                        lane, 1, row, chunk, d, T, D, N, chunks, has_h0, has_resets,
                        gy, u, decay, weight, marks, points, carried, gu, gd, gw, s,
                    )  # fmt: skip

    return kernel


@inline
def _chunk_back(
    like, lanes, row, chunk, d, T, D, N, chunks, has_h0, has_resets,
    gy, u, decay, weight, marks, points, carried, gu, gd, gw, s,
):  # fmt: skip
    # s: decay, weight, the gradients of h, decay and weight, h before each step and after the last.
    first, stop = chunk * CHUNK, min(T, (chunk + 1) * CHUNK)
    part = N * lanes
    weights, grads, by_decay, by_weight = 2 * part, 4 * part, 6 * part, 8 * part
    states, unit = 10 * part, 2 * part
    for n in range(2 * N):
        i = n * lanes
        store(s, i, load(decay, n * D + d, like))
        store(s, weights + i, load(weight, n * D + d, like))
        store(s, grads + i, load(carried, (row * 2 * N + n) * D + d, like))
        store(s, by_decay + i, load(gd, n * D + d, like))
        store(s, by_weight + i, load(gw, n * D + d, like))
        place = ((row * chunks + chunk) * 2 * N + n) * D + d
        store(s, states + i, load(points, place, like))
    for t in range(first, stop):
        here, k = row * T + t, states + (t - first) * unit
        x = load(u, here * D + d, like)
        if (has_h0 or t > 0) and not (has_resets and flag(marks, here)):
            for n in range(N):
                i = n * lanes
                p, q = load(s, i, like), load(s, part + i, like)
                real, imag = load(s, k + i, like), load(s, k + part + i, like)
                store(s, k + unit + i, p * real + (x - q * imag))
                store(s, k + unit + part + i, p * imag + q * real)
        else:
            for n in range(N):
                store(s, k + unit + n * lanes, x)
                store(s, k + unit + part + n * lanes, full(0.0, like))
    for t in range(stop - 1, first - 1, -1):
        here, k = row * T + t, states + (t - first) * unit
        g = load(gy, here * D + d, like)
        total = full(0.0, like)
        if (has_h0 or t > 0) and not (has_resets and flag(marks, here)):
            for n in range(N):
                i = n * lanes
                j = part + i
                new = load(s, by_weight + i, like)
                store(s, by_weight + i, g * load(s, k + unit + i, like) + new)
                new = load(s, by_weight + j, like)
                store(s, by_weight + j, new - g * load(s, k + unit + j, like))
                a = g * load(s, weights + i, like) + load(s, grads + i, like)
                b = load(s, grads + j, like) - g * load(s, weights + j, like)
                total = total + a
                real, imag = load(s, k + i, like), load(s, k + j, like)
                new = a * real + load(s, by_decay + i, like)
                store(s, by_decay + i, b * imag + new)
                new = b * real + load(s, by_decay + j, like)
                store(s, by_decay + j, new - a * imag)
                p, q = load(s, i, like), load(s, j, like)
                store(s, grads + i, p * a + q * b)
                store(s, grads + j, p * b - q * a)
        else:
            for n in range(N):
                i = n * lanes
                j = part + i
                new = load(s, by_weight + i, like)
                store(s, by_weight + i, g * load(s, k + unit + i, like) + new)
                total = g * load(s, weights + i, like) + load(s, grads + i, like) + total
                store(s, grads + i, full(0.0, like))
                store(s, grads + j, full(0.0, like))
        store(gu, here * D + d, total)
    for n in range(2 * N):
        i = n * lanes
        store(carried, (row * 2 * N + n) * D + d, load(s, grads + i, like))
        store(gd, n * D + d, load(s, by_decay + i, like))
        store(gw, n * D + d, load(s, by_weight + i, like))
