# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""One step of an agent, compiled: a program of four operations, run over all rows.

One kernel for every agent, compiled once on a machine: it reads all sizes and places from the
operations that program.py writes. An environment has as many rows in the buffers of work as it has
tokens, and work holds `chunk` environments: where there are more, the program is run again.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from agents.acting.engines.numba.tile import LANES, ROWS, VECTORS, ints, thin_tile, tile, total
from minrnn.scan.cpu import launch
from minrnn.scan.cpu.gates import activate, decay_and_input, exp
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

# The head of a program: one number each. AT_*: places among the constants.
NUM_OPS, OBS, ACTION, SCALES, TOKENS, CHUNK, STATE = range(7)
AT_OBS, AT_RTG, AT_TIME, AT_START, AT_RANGE = range(7, 12)
FUSED, PREV_ACTION, WIDTH = range(12, 15)
BUFFERS = 15  # two numbers each: place in work, and from one row to the next
INPUT, STREAM, NORMED, GATES, HELD, OUTPUT = range(6)
OPS = BUFFERS + 2 * 6  # OP_SIZE numbers each
OP_SIZE = 10
PRODUCT, NORM, ACTIVATE, RECUR = range(4)


@functools.cache
def kernel() -> Callable[..., None]:
    """Return the function, to be called with sizes and addresses."""
    files = [Path(__file__), Path(__file__).with_name("tile.py")]
    own = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    sources = launch.sources() ^ int(own[:8], 16)  # in the closure: see launch.sources

    @launch.jit
    def step(
        count, program, constants, work, picked, state, obs, rtg, before, timestep, resets, action
    ):
        assert sources != -1
        p, timestep, picked = ints(program), ints(timestep), ints(picked)
        c, m, s = at(constants, "float32"), at(work, "float32"), at(state, "float32")
        obs, rtg, before = at(obs, "float32"), at(rtg, "float32"), at(before, "float32")
        marks, action = at(resets, "bool"), at(action, "float32")
        for first in range(0, count, p[CHUNK]):
            rows = min(p[CHUNK], count - first)
            _read(p, c, m, first, rows, obs, rtg, before, timestep)
            chosen = 0
            for op in range(p[NUM_OPS]):
                o = OPS + op * OP_SIZE
                if p[o] == RECUR:
                    _recur(p, o, c, m, s, first, rows, timestep, marks)
                    continue
                # The rows of one token of each environment, or (-1) of all tokens.
                token = p[o + 1]
                number = rows * p[TOKENS] if token < 0 else rows
                x, step_x = _place(p, p[o + 2], token)
                y, step_y = _place(p, p[o + 3], token)
                if p[o] == PRODUCT and chosen > 0:
                    _thin_product(
                        c, p[o + 4], p[o + 5], p[o + 6], p[o + 7], m, x, picked, chosen, y
                    )
                    chosen = 0
                elif p[o] == PRODUCT:
                    x += p[o + 8]
                    _product(
                        c, p[o + 4], p[o + 5], p[o + 6], p[o + 7], m, x, step_x, y, step_y, number
                    )
                elif p[o] == NORM:
                    for row in range(number):
                        _norm(
                            c, p[o + 4], p[o + 5], p[o + 6], m, x + row * step_x, y + row * step_y
                        )
                else:
                    for row in range(number):
                        _activate(m, x + row * step_x, p[o + 4], p[o + 5])
                    # Of a row alone, the weights are what is waited for: those of zeros are left.
                    if number == 1 and not p[o + 5]:
                        chosen = _pick(m, x, p[o + 4], picked)
            _write(p, c, m, first, rows, action)

    return step


@inline
def _place(p, buffer, token):
    # Where a buffer's first row is, and how far it is from one to the next.
    start, step = p[BUFFERS + 2 * buffer], p[BUFFERS + 2 * buffer + 1]
    if token < 0 or buffer == INPUT:  # which has one row for all tokens
        return start, step
    return start + token * step, p[TOKENS] * step


@inline
def _read(p, c, m, first, rows, obs, rtg, before, timestep):
    # Normalised observation, features of the return-to-go, previous action, and a 1 if there is one
    line = line_of(c)
    size, width, tokens = p[OBS], p[ACTION], p[TOKENS]
    for row in range(rows):
        k, o = first + row, p[BUFFERS + 2 * INPUT] + row * p[BUFFERS + 2 * INPUT + 1]
        for i in range(size):
            m[o + i] = (obs[k * size + i] - c[p[AT_OBS] + i]) / c[p[AT_OBS] + size + i]
        o += size
        asked, low, high = rtg[k], c[p[AT_RTG]], c[p[AT_RTG] + 1]
        if asked < low:
            asked = low
        if asked > high:
            asked = high
        asked = asked / c[p[AT_RTG] + 2]
        fine, _ = activate(1, full(asked, line) * load(c, p[AT_RTG] + LANES, line))
        m[o] = asked
        store(m, o + 1, fine)  # more than there are; what comes next lies on top
        o += 1 + p[SCALES]
        if p[PREV_ACTION]:
            # Fused tokens have no part for it where there is none, bias included.
            seen = 0.0 if p[FUSED] and timestep[k] == 0 else 1.0
            for i in range(width):
                m[o + i] = before[k * width + i] if seen > 0.0 else 0.0
            m[o + width] = seen
        if p[AT_TIME] >= 0:
            for token in range(tokens):
                x = p[BUFFERS + 2 * STREAM]
                x += (row * tokens + token) * p[BUFFERS + 2 * STREAM + 1]
                now = timestep[k]
                if tokens == 3 and token == 0:  # an action's token has the time of its own step
                    now = max(now - 1, 0)
                for i in range(0, p[WIDTH], LANES):
                    store(m, x + i, load(c, p[AT_TIME] + now * p[WIDTH] + i, line))


@inline
def _product(c, w, depth, columns, add, m, x, step_x, y, step_y, number):
    wide = VECTORS * LANES
    while columns > 0:
        row, xr, yr = 0, x, y
        if columns >= wide:
            while number - row >= ROWS[0]:
                tile(c, w, m, xr, step_x, depth, m, yr, step_y, add, ROWS[0], VECTORS)
                row, xr, yr = row + ROWS[0], xr + ROWS[0] * step_x, yr + ROWS[0] * step_y
            if number - row >= ROWS[1]:
                tile(c, w, m, xr, step_x, depth, m, yr, step_y, add, ROWS[1], VECTORS)
                row, xr, yr = row + ROWS[1], xr + ROWS[1] * step_x, yr + ROWS[1] * step_y
            if number - row >= ROWS[2]:
                tile(c, w, m, xr, step_x, depth, m, yr, step_y, add, ROWS[2], VECTORS)
                row, xr, yr = row + ROWS[2], xr + ROWS[2] * step_x, yr + ROWS[2] * step_y
            if number > row:
                tile(c, w, m, xr, step_x, depth, m, yr, step_y, add, 1, VECTORS)
            w, y, columns = w + (1 + depth) * wide, y + wide, columns - wide
        else:
            while number - row >= ROWS[0]:
                tile(c, w, m, xr, step_x, depth, m, yr, step_y, add, ROWS[0], 1)
                row, xr, yr = row + ROWS[0], xr + ROWS[0] * step_x, yr + ROWS[0] * step_y
            while number > row:
                tile(c, w, m, xr, step_x, depth, m, yr, step_y, add, 1, 1)
                row, xr, yr = row + 1, xr + step_x, yr + step_y
            w, y, columns = w + (1 + depth) * LANES, y + LANES, columns - LANES


@inline
def _thin_product(c, w, depth, columns, add, m, x, picked, count, y):
    wide = VECTORS * LANES
    while columns > 0:
        if columns >= wide:
            thin_tile(c, w, m, x, picked, count, m, y, add, VECTORS)
            w, y, columns = w + (1 + depth) * wide, y + wide, columns - wide
        else:
            thin_tile(c, w, m, x, picked, count, m, y, add, 1)
            w, y, columns = w + (1 + depth) * LANES, y + LANES, columns - LANES


@inline
def _pick(m, x, columns, picked):
    # Leave a row's numbers other than zero, in front; one at least.
    count = 0
    for i in range(columns):
        value = m[x + i]
        m[x + count] = value
        picked[count] = i
        count += value != 0.0  # NaN is
    return max(count, 1)


@inline
def _norm(c, place, size, centred, m, x, y):
    # A constant added to variances comes first, then the gains, then the biases.
    line, lane = line_of(m), lane_of(m)
    many = size // LANES * LANES
    mean, square = 0.0, 0.0
    if centred:
        sums = full(0.0, line)
        for i in range(0, many, LANES):
            sums = sums + load(m, x + i, line)
        mean += total(sums)
        for i in range(many, size):
            mean += m[x + i]
        mean /= size
    middle = full(mean, line)
    sums = full(0.0, line)
    for i in range(0, many, LANES):
        off = load(m, x + i, line) - middle
        sums = sums + off * off
    square += total(sums)
    for i in range(many, size):
        square += (m[x + i] - mean) * (m[x + i] - mean)
    scale = 1.0 / math.sqrt(square / size + c[place])
    gain = place + LANES
    bias = gain + (size + LANES - 1) // LANES * LANES
    for i in range(0, many, LANES):
        _scale(c, gain + i, bias + i, m, x + i, y + i, mean, scale, line)
    for i in range(many, size):
        _scale(c, gain + i, bias + i, m, x + i, y + i, mean, scale, lane)


@inline
def _scale(c, gain, bias, m, x, y, mean, scale, like):
    off = (load(m, x, like) - full(mean, like)) * full(scale, like)
    store(m, y, off * load(c, gain, like) + load(c, bias, like))


@inline
def _activate(m, x, columns, smooth):
    line = line_of(m)
    zero = full(0.0, line)
    if smooth:
        for i in range(x, x + columns, LANES):
            value = load(m, i, line)
            store(m, i, 0.5 * value * (1.0 + _erf(value * 0.70710678118654752)))
    else:
        for i in range(x, x + columns, LANES):
            value = load(m, i, line)
            store(m, i, where(value < 0.0, zero, value))  # NaN stays


@inline
def _erf(x):
    # Minimax polynomials by N. Juffa (forums.developer.nvidia.com, "A more accurate erff"): near 0
    # of erf itself, beyond of log(1 - erf).
    size = negative_magnitude(x) * -1.0
    square = x * x
    p = square * -5.96761703e-4 + 4.99119423e-3
    p = p * square + -2.67681349e-2
    p = p * square + 1.12819925e-1
    p = p * square + -3.76125336e-1
    p = p * square + 1.28379166e-1
    near = p * x + x
    q = size * -1.72853470e-5 + 3.83197126e-4
    u = size * -3.88396438e-3 + 2.42546219e-2
    q = q * square + u
    q = q * size + -1.06777877e-1
    q = q * size + -6.34846687e-1
    q = q * size + -1.28717512e-1
    q = q * size - size
    far = 1.0 - exp(where(q < 0.0, q, q * 0.0))
    far = where(x < 0.0, far * -1.0, far)
    return where(size < 0.927734375, near, far)


@inline
def _recur(p, o, c, m, s, first, rows, timestep, marks):
    # h = a h + b for the tokens of each environment, in order.
    line = line_of(m)
    target, place, size = p[o + 3], p[o + 4], p[o + 5]
    gates, candidate, signed, adds = p[o + 6], p[o + 7], p[o + 8], p[o + 9]
    tokens = p[TOKENS]
    step_x, step_y = p[BUFFERS + 2 * GATES + 1], p[BUFFERS + 2 * target + 1]
    last = size if gates == 1 else 2 * size
    for row in range(rows):
        k = first + row
        h = k * p[STATE] + place
        # In front of an episode's first token; an action's token before it is another episode's.
        start = -1
        if flag(marks, k):
            start = 1 if tokens == 3 and timestep[k] == 0 else 0
        for token in range(tokens):
            x = p[BUFFERS + 2 * GATES] + (row * tokens + token) * step_x
            y = p[BUFFERS + 2 * target] + (row * tokens + token) * step_y
            for i in range(0, size, LANES):
                forget, enter = decay_and_input(
                    gates,
                    candidate,
                    load(m, x + i, line),
                    load(m, x + size + i, line),
                    load(m, x + last + i, line),
                )
                if signed:
                    forget = 2.0 * forget - 1.0
                if token == start:
                    held = load(c, p[AT_START] + place + i, line)
                else:
                    held = load(s, h + i, line)
                held = forget * held + enter
                store(s, h + i, held)
                store(m, y + i, load(m, y + i, line) + held if adds else held)


@inline
def _write(p, c, m, first, rows, action):
    line, lane = line_of(m), lane_of(m)
    width = p[ACTION]
    whole = (width + LANES - 1) // LANES * LANES
    start, step = _place(p, OUTPUT, p[TOKENS] - 1)
    for row in range(rows):
        x = start + row * step
        for i in range(0, whole, LANES):
            squashed, _ = activate(1, load(m, x + i, line))
            middle = load(c, p[AT_RANGE] + i, line)
            half = load(c, p[AT_RANGE] + whole + i, line)
            store(m, x + i, middle + half * squashed)
        for i in range(width):
            store(action, (first + row) * width + i, load(m, x + i, lane))
