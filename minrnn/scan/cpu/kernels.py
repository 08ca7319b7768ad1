# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The kernels: numba functions of addresses (0: not there), one for each kind of gates and dtype.

Arguments that both share. b0, b1, d0, d1: the rows of the batch and the channels to do. T, D.
x, y, z: the inputs, (xb, xt) and so on their strides over batch and time in elements; z repeats y
where there are two. h0 (B, D), resets (B, T), init (D,), h (B, T, D): contiguous. scratch: 2 D
numbers of one's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from minrnn.scan.cpu import launch
from minrnn.scan.cpu.gates import decay_and_input, derivatives
from minrnn.scan.cpu.simd import (
    at,
    fence,
    flag,
    full,
    inline,
    lane_of,
    line_of,
    load,
    prefetch,
    store,
    stream,
)

AHEAD = 3  # time steps between the one that is prefetched and the one in hand


@functools.cache
def forward(
    GATES: int, CANDIDATE: int, STORED: str, WIDE: str, STREAM: bool
) -> Callable[..., None]:
    """Return the kernel that writes h.

    STORED, WIDE: names of the dtypes of inputs and of h. STREAM: h is written past the caches, and
    aligned for that.
    """
    lanes = launch.lanes(WIDE)
    sources = launch.sources()

    @launch.jit
    def kernel(b0, b1, d0, d1, T, D, x, xb, xt, y, yb, yt, z, zb, zt, h0, resets, init, h, scratch):
        assert sources
        has_h0, has_resets, has_init = h0 != 0, resets != 0, init != 0
        x, y, z = at(x, STORED), at(y, STORED), at(z, STORED)
        h0, init, h, s = at(h0, WIDE), at(init, WIDE), at(h, WIDE), at(scratch, WIDE)
        marks = at(resets, "bool")
        line, lane = line_of(h), lane_of(h)
        many = d0 + (d1 - d0) // lanes * lanes  # whole lines end here
        for b in range(b0, b1):
            _copy(s, 0, h0, b * D, has_h0, d0, d1, lane)
            for t in range(T):
                o = (b * T + t) * D
                xo, yo, zo = b * xb + t * xt, b * yb + t * yt, b * zb + t * zt
                seen = has_h0 or t > 0
                if has_resets and flag(marks, b * T + t):
                    _copy(s, 0, init, 0, has_init, d0, d1, lane)
                    seen = has_init
                for d in range(d0, d1, lanes):
                    prefetch(x, xo + AHEAD * xt + d)
                    prefetch(y, yo + AHEAD * yt + d)
                    if GATES >= 2:
                        prefetch(z, zo + AHEAD * zt + d)
                for d in range(d0, many, lanes):
                    _step(
                        GATES, CANDIDATE, STREAM, line, seen,
                        x, xo + d, y, yo + d, z, zo + d, s, d, h, o,
                    )  # fmt: skip
                for d in range(many, d1):
                    _step(
                        GATES, CANDIDATE, False, lane, seen,
                        x, xo + d, y, yo + d, z, zo + d, s, d, h, o,
                    )  # fmt: skip
        if STREAM:
            fence()

    return kernel


@functools.cache
def backward(
    GATES: int, CANDIDATE: int, STORED: str, WIDE: str, STREAM: bool
) -> Callable[..., None]:
    """Return the kernel that writes the gradients.

    gh (B, T, D), gl (B, D): of h and of the last step. gx, gy, gz (B, T, D): of the inputs.
    gs, gi (B, D): of what comes before the first step, and of init, for each row of the batch.
    """
    lanes = launch.lanes(WIDE)
    sources = launch.sources()

    @launch.jit
    def kernel(
        b0, b1, d0, d1, T, D, x, xb, xt, y, yb, yt, z, zb, zt, h0, resets, init, h, scratch,
        gh, gl, gx, gy, gz, gs, gi,
    ):  # fmt: skip
        assert sources
        has_h0, has_resets, has_init = h0 != 0, resets != 0, init != 0
        has_gh, has_gl = gh != 0, gl != 0
        x, y, z = at(x, STORED), at(y, STORED), at(z, STORED)
        h0, init, h, s = at(h0, WIDE), at(init, WIDE), at(h, WIDE), at(scratch, WIDE)
        gx, gy, gz = at(gx, STORED), at(gy, STORED), at(gz, STORED)
        gh, gl, gs, gi = at(gh, WIDE), at(gl, WIDE), at(gs, WIDE), at(gi, WIDE)
        marks = at(resets, "bool")
        line, lane = line_of(h), lane_of(h)
        many = d0 + (d1 - d0) // lanes * lanes
        for b in range(b0, b1):
            _copy(s, 0, gl, b * D, has_gl, d0, d1, lane)
            _copy(gi, b * D, gi, 0, False, d0, d1, lane)
            for t in range(T - 1, -1, -1):
                o = (b * T + t) * D
                xo, yo, zo = b * xb + t * xt, b * yb + t * yt, b * zb + t * zt
                reset = has_resets and flag(marks, b * T + t)
                for d in range(d0, d1, lanes):
                    prefetch(x, xo - AHEAD * xt + d)
                    prefetch(y, yo - AHEAD * yt + d)
                    if GATES >= 2:
                        prefetch(z, zo - AHEAD * zt + d)
                    prefetch(h, o - (AHEAD + 1) * D + d)
                    prefetch(gh, o - AHEAD * D + d)
                before, po = h, o - D
                if reset or t == 0:  # h does not have the state before the first step
                    before, po = s, D
                    if reset:
                        _copy(s, D, init, 0, has_init, d0, d1, lane)
                    else:
                        _copy(s, D, h0, b * D, has_h0, d0, d1, lane)
                for d in range(d0, many, lanes):
                    _step_back(
                        GATES, CANDIDATE, STREAM, line, has_gh, x, xo + d, y, yo + d, z, zo + d,
                        before, po + d, s, d, o + d, gh, gx, gy, gz,
                    )  # fmt: skip
                for d in range(many, d1):
                    _step_back(
                        GATES, CANDIDATE, False, lane, has_gh, x, xo + d, y, yo + d, z, zo + d,
                        before, po + d, s, d, o + d, gh, gx, gy, gz,
                    )  # fmt: skip
                if reset:
                    for d in range(d0, d1):
                        if has_init:
                            total = load(gi, b * D + d, lane) + load(s, d, lane)
                            store(gi, b * D + d, total)
                        store(s, d, full(0.0, lane))
            _copy(gs, b * D, s, 0, True, d0, d1, lane)
        if STREAM:
            fence()

    return kernel


@inline
def _step(gates, candidate, streams, like, seen, x, xo, y, yo, z, zo, s, d, h, o):
    first, second = load(x, xo, like), load(y, yo, like)
    third = load(z, zo, like) if gates >= 2 else second
    a, b = decay_and_input(gates, candidate, first, second, third)
    # Where nothing comes before, a is not read.
    value = a * load(s, d, like) + b if seen else b
    store(s, d, value)
    _write(streams, h, o + d, value)


@inline
def _step_back(
    gates,
    candidate,
    streams,
    like,
    has_gh,
    x,
    xo,
    y,
    yo,
    z,
    zo,
    before,
    po,
    s,
    d,
    o,
    gh,
    gx,
    gy,
    gz,
):
    # s holds a_{t+1} g_{t+1}, and gets a_t g_t.
    first, second = load(x, xo, like), load(y, yo, like)
    third = load(z, zo, like) if gates >= 2 else second
    g = load(s, d, like) + load(gh, o, like) if has_gh else load(s, d, like)
    prev = load(before, po, like)
    if gates == 0:
        _write(streams, gx, o, g * prev)
        _write(streams, gy, o, g)
        store(s, d, g * first)
        return
    a, u, v, slope, wx, wy = derivatives(gates, candidate, first, second, third)
    grad_c = g * u * slope
    if gates == 1:
        _write(streams, gx, o, g * (v - prev) * wx)
        _write(streams, gy, o, grad_c)
    else:
        if gates == 2:
            _write(streams, gx, o, g * (v - prev) * wx)
            _write(streams, gy, o, g * (v - prev) * wy)
        else:
            _write(streams, gx, o, g * prev * wx)
            _write(streams, gy, o, g * v * wy)
        _write(streams, gz, o, grad_c)
    store(s, d, g * a)


@inline
def _write(streams, target, index, value):
    if streams:
        stream(target, index, value)
    else:
        store(target, index, value)


@inline
def _copy(target, to, source, start, there, d0, d1, lane):
    # Channels d0 to d1, or zeros where there is nothing to copy.
    for d in range(d0, d1):
        store(target, to + d, load(source, start + d, lane) if there else full(0.0, lane))
