# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The gates for numba, on vectors: pre-activations in; gates, candidate and derivatives out.

Exponentials only of numbers <= 0, so that nothing overflows, and sums only of positive numbers,
so that nothing cancels. One division serves gate and candidate.
"""

from __future__ import annotations

from numba import types
from numba.extending import overload

from minrnn.scan.cpu.simd import full, inline, negative_magnitude, power_of_two, where

# A kernel is compiled for one of each: these are constants there, and the branches vanish.
GATES = {"linear": 0, "mingru": 1, "minlstm": 2, "minlstm-raw": 3}
CANDIDATES = {"g": 0, "tanh": 1, "linear": 2}


@inline
def decay_and_input(gates, candidate, x, y, z):
    """Return a and b of h_t = a h_{t-1} + b."""
    if gates == 0:
        return x, y
    c = y if gates == 1 else z
    e, below = _candidate(candidate, c)
    if gates == 1:
        ratio, over = _sigmoid(x)
        one = 1.0 / (over * below)
        forget, enter = _both_sides(x, ratio, one * below)
        return forget, enter * _value(candidate, c, e, one * over)
    if gates == 2:
        _, _, p, q = _odds(x, y)
        one = 1.0 / ((p + q) * below)
        scale = one * below
        return q * scale, p * scale * _value(candidate, c, e, one * (p + q))
    ratio_f, over_f = _sigmoid(x)
    ratio_i, over_i = _sigmoid(y)
    one = 1.0 / (over_f * over_i * below)
    _, forget = _both_sides(x, ratio_f, one * over_i * below)
    _, enter = _both_sides(y, ratio_i, one * over_f * below)
    return forget, enter * _value(candidate, c, e, one * over_f * over_i)


@inline
def derivatives(gates, candidate, x, y, z):
    """Return (a, u, v, dv, wx, wy): forget gate, input gate, candidate and its derivative, and

    for minGRU and minLSTM d h / d x = wx (v - h_{t-1}), d h / d y = wy (v - h_{t-1});
    for the raw minLSTM d h / d x = wx h_{t-1}, d h / d y = wy v.
    """
    c = y if gates == 1 else z
    e, below = _candidate(candidate, c)
    if gates == 1:
        ratio, over = _sigmoid(x)
        one = 1.0 / (over * below)
        forget, enter = _both_sides(x, ratio, one * below)
        inverse = one * over
        wx = forget * enter
        wy = wx
    elif gates == 2:
        ep, eq, p, q = _odds(x, y)
        one = 1.0 / ((p + q) * below)
        scale, inverse = one * below, one * (p + q)
        forget, enter = q * scale, p * scale
        # d log F / d f = 1 - F = ep / p, and d a = -d u = a u d(log F - log I)
        wx, wy = -(ep * scale) * forget, eq * scale * enter
    else:
        ratio_f, over_f = _sigmoid(x)
        ratio_i, over_i = _sigmoid(y)
        one = 1.0 / (over_f * over_i * below)
        rest, forget = _both_sides(x, ratio_f, one * over_i * below)
        wx = rest * forget
        rest, enter = _both_sides(y, ratio_i, one * over_f * below)
        wy = rest * enter
        inverse = one * over_f * over_i
    value = _value(candidate, c, e, inverse)
    return forget, enter, value, _slope(candidate, c, e, inverse), wx, wy


@inline
def _sigmoid(x):
    # e^-|x| and 1 + e^-|x|: the smaller of sigmoid(x) and sigmoid(-x) is the quotient.
    e = _exp(negative_magnitude(x))
    return e, 1.0 + e


@inline
def _both_sides(x, e, inverse):
    # sigmoid(-x), sigmoid(x)
    small, right = e * inverse, x >= 0.0
    return where(right, small, inverse), where(right, inverse, small)


@inline
def _odds(f, i):
    # With m the largest of 0, -f and -i: ep = e^(-f-m), eq = e^(-i-m), p = e^-m + ep and
    # q = e^-m + eq. Then F / (F + I) = q / (p + q), finite and exact however far f and i go.
    first = f < i  # -f is the larger
    top = where(first, f, i)  # the largest of -f and -i, negated
    low = _exp(negative_magnitude(f - i))
    at_top = _exp(negative_magnitude(top))
    negative = top >= 0.0  # both of -f and -i are
    base = where(negative, full(1.0, at_top), at_top)
    high = where(negative, at_top, full(1.0, at_top))
    low = high * low
    ep, eq = where(first, high, low), where(first, low, high)
    return ep, eq, base + ep, base + eq


@inline
def _candidate(candidate, c):
    # What is needed of an exponential, and the divisor.
    if candidate == 0:
        return _sigmoid(c)
    if candidate == 1:
        m = _expm1(2.0 * negative_magnitude(c))
        return m, 2.0 + m
    return c, full(1.0, c)


@inline
def _value(candidate, c, e, inverse):
    if candidate == 0:
        return where(c >= 0.0, c + 0.5, e * inverse)
    if candidate == 1:
        value = e * inverse
        return where(c < 0.0, value, -value)
    return c


@inline
def _slope(candidate, c, e, inverse):
    if candidate == 0:
        return where(c >= 0.0, full(1.0, c), e * inverse * inverse)
    if candidate == 1:
        return 4.0 * (1.0 + e) * inverse * inverse
    return full(1.0, c)


@inline
def _exp(x):
    scale, small = _reduced(x)
    return scale + scale * small


@inline
def _expm1(x):
    scale, small = _reduced(x)
    return (scale - 1.0) + scale * small


def _reduced(x):
    """Return 2^n and e^(x - n ln 2) - 1, for x <= 0; NaN gives NaN."""


@overload(_reduced)
def _reduced_overload(x):
    if x.dtype == types.float32:
        return lambda x: _reduced_float32(x)
    return lambda x: _reduced_float64(x)


# The two parts of ln 2; what makes n the low bits of a sum; P of e^r = 1 + r + r^2 P(r) for
# |r| <= ln(2) / 2, highest power first: minimax (Cephes) in float32, Taylor in float64.
@inline
def _reduced_float32(x):
    x = where(x < -87.0, full(-87.0, x), x)
    shifted = x * 1.44269504088896341 + 12582912.0
    n = shifted - 12582912.0
    r = (x - n * 0.693359375) + n * 2.12194440e-4
    p = r * 1.9875691500e-4 + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    return power_of_two(shifted), p * (r * r) + r


@inline
def _reduced_float64(x):
    x = where(x < -708.0, full(-708.0, x), x)
    shifted = x * 1.44269504088896341 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
    p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    return power_of_two(shifted), p * (r * r) + r
