# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The short convolution on a CPU, in vectors over channels.

Arguments of the kernels are addresses (0: not there) of numbers of one dtype, contiguous but for
x: x (B, T, D) with strides xb, xt over batch and time; weight (W, D), past (B, W - 1, D), resets
(B, T); see `minrnn.scan.conv`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from minrnn.scan.cpu import launch
from minrnn.scan.cpu.simd import at, flag, full, inline, lane_of, line_of, load, store


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> tuple[Tensor]:
    """Return y."""
    batch, time, dim = x.shape
    y = torch.empty(x.shape, dtype=x.dtype)
    rows, given = _given(x, weight, bias, past, resets)
    compiled = _forward(launch.stored(x), weight.shape[1])
    parts = launch.parts(batch, dim, x.numel())
    sizes = time, dim, rows.stride(0), rows.stride(1)
    launch.run(compiled, parts, sizes, (rows, *given, y))
    return (y,)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of x, weight, bias and past."""
    batch, time, dim = x.shape
    width = weight.shape[1]
    rows, given = _given(x, weight, bias, past, resets)
    grad = launch.ready(grad, x.shape, x)
    grad_x = torch.empty(x.shape, dtype=x.dtype)
    grad_past = None if past is None else torch.empty(past.shape, dtype=x.dtype)
    parts = launch.parts(batch, dim, x.numel())
    # Sums that threads would share: each has its own. The bias comes after the weight.
    sums = x.new_zeros(len(parts), width + 1, dim)
    compiled = _backward(launch.stored(x), width)
    sizes = time, dim, rows.stride(0), rows.stride(1)
    launch.run(compiled, parts, sizes, (rows, *given, grad, grad_x, grad_past), [sums])
    total = sums.sum(0)
    return grad_x, total[:width].t().contiguous(), total[width].clone(), grad_past


def _given(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    # x is not copied if its channels are side by side.
    batch, _, dim = x.shape
    width = weight.shape[-1]
    strided = x.stride(2) == 1 and not x.is_neg() and x.device.type == "cpu"
    rows = x if strided else launch.ready(x, x.shape, x)
    return rows, [
        launch.ready(weight.t(), (width, dim), x),
        launch.ready(bias, (dim,), x),
        launch.optional(past, (batch, width - 1, dim), x),
        launch.marks(resets, x),
    ]


@functools.cache
def _forward(DTYPE: str, WIDTH: int) -> Callable[..., None]:
    lanes = launch.lanes(DTYPE)
    sources = launch.sources()

    @launch.jit
    def kernel(b0, b1, d0, d1, T, D, xb, xt, x, weight, bias, past, resets, y):
        assert sources
        has_past, has_resets = past != 0, resets != 0
        x, weight, bias, past = at(x, DTYPE), at(weight, DTYPE), at(bias, DTYPE), at(past, DTYPE)
        y, marks = at(y, DTYPE), at(resets, "bool")
        line, lane = line_of(x), lane_of(x)
        many = d0 + (d1 - d0) // lanes * lanes
        for row in range(b0, b1):
            for t in range(T):
                back = _back(marks, has_resets, has_past, row * T, t, WIDTH)
                o, to = row * xb + t * xt, (row * T + t) * D
                for d in range(d0, many, lanes):
                    _tap(line, WIDTH, back, t, D, d, o, xt, row, x, weight, bias, past, y, to)
                for d in range(many, d1):
                    _tap(lane, WIDTH, back, t, D, d, o, xt, row, x, weight, bias, past, y, to)

    return kernel


@inline
def _back(marks, has_resets, has_past, first, t, width):
    # The number of existing steps before t in its episode, at most width - 1.
    back = 0
    for j in range(1, width):
        if has_resets and t - j + 1 >= 0 and flag(marks, first + t - j + 1):
            break
        if t - j < 0 and not has_past:
            break
        back = j
    return back


@inline
def _ahead(marks, has_resets, first, t, length, width):
    # The number of existing steps after t in its episode, at most width - 1. t may be negative.
    ahead = 0
    for j in range(1, width):
        if t + j >= length or (has_resets and t + j >= 0 and flag(marks, first + t + j)):
            break
        ahead = j
    return ahead


@inline
def _tap(like, width, back, t, D, d, o, xt, row, x, weight, bias, past, y, to):
    last = width - 1
    total = load(weight, last * D + d, like) * load(x, o + d, like) + load(bias, d, like)
    for j in range(1, min(back, t) + 1):
        total = load(weight, (last - j) * D + d, like) * load(x, o - j * xt + d, like) + total
    for j in range(min(back, t) + 1, back + 1):
        place = (row * last + last + t - j) * D + d
        total = load(weight, (last - j) * D + d, like) * load(past, place, like) + total
    store(y, to + d, total)


@functools.cache
def _backward(DTYPE: str, WIDTH: int) -> Callable[..., None]:
    lanes = launch.lanes(DTYPE)
    sources = launch.sources()

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, xb, xt, x, weight, bias, past, resets, gy, gx, gp, sums
    ):  # fmt: skip
        assert sources
        has_past, has_resets = past != 0, resets != 0
        x, weight, past = at(x, DTYPE), at(weight, DTYPE), at(past, DTYPE)
        gy, gx, gp, sums = at(gy, DTYPE), at(gx, DTYPE), at(gp, DTYPE), at(sums, DTYPE)
        marks = at(resets, "bool")
        line, lane = line_of(x), lane_of(x)
        many = d0 + (d1 - d0) // lanes * lanes
        last = WIDTH - 1
        for row in range(b0, b1):
            first = row * T
            for t in range(T):
                back = _back(marks, has_resets, has_past, first, t, WIDTH)
                ahead = _ahead(marks, has_resets, first, t, T, WIDTH)
                o, to = row * xb + t * xt, (first + t) * D
                for d in range(d0, many, lanes):
                    _tap_back(
                        line, WIDTH, back, t, D, d, o, xt, row, x, past, gy, to, sums
                    )  # fmt: skip
                    _spread(line, WIDTH, 0, ahead, D, d, weight, gy, to, gx, to)
                for d in range(many, d1):
                    _tap_back(
                        lane, WIDTH, back, t, D, d, o, xt, row, x, past, gy, to, sums
                    )  # fmt: skip
                    _spread(lane, WIDTH, 0, ahead, D, d, weight, gy, to, gx, to)
            if has_past:
                for k in range(last):
                    t = k - last
                    ahead = _ahead(marks, has_resets, first, t, T, WIDTH)
                    for d in range(d0, d1):
                        to = (row * last + k) * D
                        _spread(
                            lane, WIDTH, -t, ahead, D, d, weight, gy, (first + t) * D, gp, to
                        )  # fmt: skip

    return kernel


@inline
def _tap_back(like, width, back, t, D, d, o, xt, row, x, past, gy, to, sums):
    # The gradients of weight and bias by y_t.
    last = width - 1
    g = load(gy, to + d, like)
    store(sums, width * D + d, load(sums, width * D + d, like) + g)
    place = last * D + d
    store(sums, place, g * load(x, o + d, like) + load(sums, place, like))
    for j in range(1, min(back, t) + 1):
        place = (last - j) * D + d
        store(sums, place, g * load(x, o - j * xt + d, like) + load(sums, place, like))
    for j in range(min(back, t) + 1, back + 1):
        place = (last - j) * D + d
        before = load(past, (row * last + last + t - j) * D + d, like)
        store(sums, place, g * before + load(sums, place, like))


@inline
def _spread(like, width, start, ahead, D, d, weight, gy, o, target, to):
    # The gradient of one input, which `ahead` later steps read, from `start` on.
    total = full(0.0, like)
    for j in range(start, ahead + 1):
        place = (width - 1 - j) * D + d
        total = load(weight, place, like) * load(gy, o + j * D + d, like) + total
    store(target, to + d, total)
