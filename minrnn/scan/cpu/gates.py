# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""The gates for numba, on vectors: from pre-activations to gates, candidate and derivatives.

Exponentials only of numbers <= 0, so that nothing overflows, and sums only of positive numbers,
so that nothing cancels. Gates and candidate could share a division; one each is as fast, as the
kernels wait for memory, and more accurate by a fifth. (Errors of a state add up over
time, those of a gradient much less: there one is enough for both gates.)
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
    value, _ = activate(candidate, y if gates == 1 else z)
    if gates == 1:
        forget, enter = sigmoids(x)
    elif gates == 2:
        p, q, _, _ = _odds(x, y)
        total = p + q
        forget, enter = q / total, p / total
    else:
        _, forget = sigmoids(x)
        _, enter = sigmoids(y)
    return forget, enter * value


@inline
def derivatives(gates, candidate, x, y, z):
    """Return (a, u, v, dv, wx, wy): forget and input gate, candidate, its derivative, two weights.

    For minGRU and minLSTM d h / d x = wx (v - h_{t-1}) and d h / d y = wy (v - h_{t-1});
    for the raw minLSTM d h / d x = wx h_{t-1} and d h / d y = wy v.
    """
    value, slope = activate(candidate, y if gates == 1 else z)
    if gates == 1:
        forget, enter = sigmoids(x)
        wx = forget * enter
        wy = wx
    elif gates == 2:
        # d a = -d u = a u d(log F - log I)
        p, q, ep, eq = _odds(x, y)
        inverse = 1.0 / (p + q)
        forget, enter = q * inverse, p * inverse
        wx, wy = -(ep * inverse) * forget, (eq * inverse) * enter
    else:
        rest_f, forget = sigmoids(x)
        rest_i, enter = sigmoids(y)
        wx, wy = rest_f * forget, rest_i * enter
    return forget, enter, value, slope, wx, wy


@inline
def sigmoids(x):
    """Return sigmoid(-x) and sigmoid(x). The smaller is e^-|x| times the larger."""
    e = exp(negative_magnitude(x))
    large = 1.0 / (1.0 + e)
    small = e * large
    right = x >= 0.0
    return where(right, small, large), where(right, large, small)


@inline
def _odds(f, i):
    # p, q, ep, eq. Over p + q they are I / (F + I), F / (F + I), (1 - F) I / (F + I) and
    # (1 - I) F / (F + I) for the sigmoids F and I. With m the largest of 0, -f and -i:
    # ep = e^(-f-m), eq = e^(-i-m), p = e^-m + ep, q = e^-m + eq. Finite and exact however far f and
    # i go.
    f = where(f > 1e30, full(1e30, f), f)  # infinities have no difference
    i = where(i > 1e30, full(1e30, i), i)
    first = f < i  # -f is the larger
    top = where(first, f, i)  # the larger of -f and -i, negated
    ratio = exp(negative_magnitude(f - i))
    e = exp(negative_magnitude(top))
    below = top >= 0.0  # both of -f and -i are at most 0
    one = full(1.0, e)
    base, high = where(below, one, e), where(below, e, one)
    low = high * ratio
    ep, eq = where(first, high, low), where(first, low, high)
    return base + ep, base + eq, ep, eq


@inline
def activate(candidate, c):
    """Return the candidate of c, and its derivative."""
    if candidate == 0:
        right = c >= 0.0
        large, small = sigmoids(c)  # where c < 0: 1 - g and g
        return where(right, c + 0.5, small), where(right, full(1.0, c), small * large)
    if candidate == 1:
        m = _expm1(2.0 * negative_magnitude(c))
        inverse = 1.0 / (2.0 + m)
        value = m * inverse
        return where(c < 0.0, value, -value), 4.0 * (1.0 + m) * inverse * inverse
    return c, full(1.0, c)


@inline
def exp(x):
    """Return e^x for x <= 0."""
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


# At the clamp 2^n is 0. The two parts of ln 2; what makes n the low bits of a sum; P of
# e^r = 1 + r + r^2 P(r) for |r| <= ln(2) / 2, highest power first: minimax (Cephes) in float32,
# Taylor in float64.
@inline
def _reduced_float32(x):
    x = where(x < -88.0, full(-88.0, x), x)
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
    x = where(x < -709.0, full(-709.0, x), x)
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
