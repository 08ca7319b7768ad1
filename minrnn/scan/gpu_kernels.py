# pyright: basic, reportGeneralTypeIssues=false, reportMissingImports=false
"""Triton kernels of the scan: one forward, one backward, for all gates and both schedules.

A program walks over the time steps of one chunk of one batch row, for a block of channels, as the
textbook loop does, and in the same order. What makes it fast is what is around it. The loads of
the next steps are under way while a step is computed (`num_stages`: asynchronous copies into shared
memory), the gates are computed where they are needed and never stored, and one warp is a program,
so that nothing waits for other warps.

With SUMMARY, a kernel does not write the steps but how the chunk maps its incoming state, which is
affine: state -> product * state + end, or just end, where a reset cuts it off (`cut`). Chunks are
numbered in the order of the walk: in the backward pass, from the end.

Only builtins of `triton.language` are used, not its functions written in Triton: those are compiled
or interpreted by what TRITON_INTERPRET was when triton was first imported, whoever did that.
"""

import triton
import triton.language as tl

# Compiled once for all values of these; VEC has what the compiler needs to know of them.
_NUMBERS = [
    *("length", "chunk", "width", "blocks"),
    *(f"x{i}_{kind}" for i in range(3) for kind in ("row", "step")),
    *("resets_row", "resets_step", "h0_row"),
]
_GRAD_NUMBERS = ["grad_h_row", "grad_h_step", "grad_last_row"]


@triton.jit
def _sigmoids(x):
    """Return sigmoid(x) and sigmoid(-x), each to its last digits: no subtraction, no overflow."""
    e = tl.exp(-tl.abs(x))
    large = 1.0 / (1.0 + e)
    small = e * large
    return tl.where(x >= 0, large, small), tl.where(x >= 0, small, large)


@triton.jit
def _tanh(x):
    """Return tanh(x) and its derivative."""
    e = tl.exp(-2.0 * tl.abs(x))
    r = 1.0 / (1.0 + e)
    far = tl.where(x >= 0, 1.0 - e, e - 1.0) * r
    # 1 - e has no digits left near zero: five terms of the series, exact to rounding below `near`.
    near = 0.02 if x.dtype == tl.float64 else 0.25
    s = x * x
    series = s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835))))
    return tl.where(tl.abs(x) < near, x + x * series, far), 4.0 * e * r * r


@triton.jit
def _candidate(c, CANDIDATE: tl.constexpr):
    """Return the candidate state and its derivative."""
    if CANDIDATE == "g":
        value, other = _sigmoids(c)
        value, slope = tl.where(c >= 0, c + 0.5, value), tl.where(c >= 0, 1.0, value * other)
    elif CANDIDATE == "tanh":
        value, slope = _tanh(c)
    else:
        value, slope = c, 1.0
    return value, slope


@triton.jit
def _normalized(f, i):
    """Return F / (F + I) and I / (F + I) for F = sigmoid(f), and 1 - F and 1 - I.

    F = exp(min(f, 0)) / (1 + exp(-|f|)). Both are scaled by the larger of the two exponentials, so
    that the sum of the weights p and q is at least 1, whatever f and i are.
    """
    ef, ei = tl.exp(-tl.abs(f)), tl.exp(-tl.abs(i))
    lead = tl.where(f < 0, f, 0.0) - tl.where(i < 0, i, 0.0)  # a NaN is in ef or ei, too
    e = tl.exp(-tl.abs(lead))
    p = tl.where(lead >= 0, 1.0, e) * (1.0 + ei)
    q = tl.where(lead >= 0, e, 1.0) * (1.0 + ef)
    r = 1.0 / (p + q)
    not_f = tl.where(f >= 0, ef, 1.0) / (1.0 + ef)
    not_i = tl.where(i >= 0, ei, 1.0) / (1.0 + ei)
    return p * r, q * r, not_f, not_i


@triton.jit
def _gates(x0, x1, GATES: tl.constexpr):
    """Return the decay, the weight of the candidate, and 1 - F and 1 - I where there are those."""
    if GATES == "linear":
        decay, update, not_f, not_i = x0, 1.0, 1.0, 1.0
    elif GATES == "mingru":
        not_f, not_i = 1.0, 1.0
        update, decay = _sigmoids(x0)
    elif GATES == "minlstm":
        decay, update, not_f, not_i = _normalized(x0, x1)
    else:
        decay, not_f = _sigmoids(x0)
        update, not_i = _sigmoids(x1)
    return decay, update, not_f, not_i


@triton.jit
def _or(x, y):
    return x | y


@triton.jit
def _starts(resets, first, step, stride, low, end, STEPS: tl.constexpr):
    """Return the resets of the steps first, first + step, ..., STEPS bits of an integer."""
    u = tl.arange(0, STEPS)
    t = first + step * u
    bits = tl.load(resets + t * stride, mask=(t >= low) & (t < end), other=0).to(tl.int32)
    return tl.reduce(bits << u, 0, _or)


@triton.jit(do_not_specialize=_NUMBERS)
def forward_kernel(
    x0_ptr, x1_ptr, x2_ptr,  # (B, T, D); x2 is None where the gates have two inputs
    resets_ptr, init_ptr, h0_ptr,  # (B, T), (D,), (B, D), or None
    ends_ptr,  # (B, C - 1, D), the states after the chunks; None where there is one chunk
    h_ptr,  # (B, T, D); with SUMMARY the ends from zero, (B, C - 1, D)
    product_ptr, cut_ptr,  # with SUMMARY, (B, C - 1, D) and (B, C - 1)
    length, chunk, width, blocks,
    x0_row, x0_step, x1_row, x1_step, x2_row, x2_step, resets_row, resets_step, h0_row,
    GATES: tl.constexpr, CANDIDATE: tl.constexpr, SUMMARY: tl.constexpr,
    VEC: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the states of a chunk."""
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    b = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1).to(tl.int64)
    channels = width * VEC
    mask = d < channels
    state = tl.full([BLOCK], 0.0, dtype)
    if not SUMMARY:
        if h0_ptr is not None:
            state = tl.load(
                h0_ptr + b * h0_row * VEC + d, mask=d < tl.where(c == 0, channels, 0), other=0.0
            )
        if ends_ptr is not None:
            row = b * (tl.num_programs(1) - 1) + c - 1
            before = tl.load(
                ends_ptr + row * channels + d, mask=d < tl.where(c > 0, channels, 0), other=0.0
            )
            state = tl.where(c > 0, before, state)
    fresh = tl.full([BLOCK], 0.0, dtype)
    if init_ptr is not None:
        fresh = tl.load(init_ptr + d, mask=mask, other=0.0)
    product = tl.full([BLOCK], 1.0, dtype)

    first = c * chunk
    end = tl.minimum(first + chunk, length)
    bits = tl.full([], 0, tl.int32)
    any_bits = bits
    if resets_ptr is not None:
        resets_ptr += b * resets_row
        bits = _starts(resets_ptr, first, 1, resets_step, first, end, STEPS)
    for i in tl.range(0, (end - first).to(tl.int32), STEPS, num_stages=STAGES):
        now = bits
        any_bits |= now
        if resets_ptr is not None:  # loaded by hand: a byte is too narrow for an asynchronous copy
            bits = _starts(resets_ptr, first + i + STEPS, 1, resets_step, first, end, STEPS)
        for u in tl.static_range(STEPS):
            t = first + (i + u)
            there = d < tl.where(t < end, channels, 0)
            x0 = tl.load(x0_ptr + (b * x0_row + t * x0_step) * VEC + d, mask=there, other=0.0)
            x1 = tl.load(x1_ptr + (b * x1_row + t * x1_step) * VEC + d, mask=there, other=0.0)
            x0, x1 = x0.to(dtype), x1.to(dtype)
            x = x1
            if x2_ptr is not None:
                x = tl.load(x2_ptr + (b * x2_row + t * x2_step) * VEC + d, mask=there, other=0.0)
                x = x.to(dtype)
            decay, update, _, _ = _gates(x0, x1, GATES)
            value, _ = _candidate(x, CANDIDATE)
            cut = ((now >> u) & 1) != 0
            if init_ptr is None:  # mask both factors: either may be NaN, and 0 * NaN is NaN
                if h0_ptr is None:
                    cut = cut | (t == 0)
                decay = tl.where(cut, 0.0, decay)
            state = tl.fma(decay, tl.where(cut, fresh, state), update * value)
            if SUMMARY:
                product = product * decay
            else:
                tl.store(h_ptr + (b * length + t) * channels + d, state, mask=there)

    if SUMMARY:
        row = b * tl.num_programs(1) + c
        tl.store(h_ptr + row * channels + d, state, mask=mask)
        tl.store(product_ptr + row * channels + d, product, mask=mask)
        if resets_ptr is not None:
            tl.store(cut_ptr + row, any_bits != 0)


@triton.jit(do_not_specialize=_NUMBERS + _GRAD_NUMBERS)
def backward_kernel(
    x0_ptr, x1_ptr, x2_ptr, resets_ptr, init_ptr, h0_ptr, h_ptr,  # as they were in forward
    grad_h_ptr, grad_last_ptr,  # (B, T, D), (B, D), or None
    ends_ptr,  # (B, C - 1, D), what the chunks pass back; None where there is one chunk
    grad_x0_ptr, grad_x1_ptr, grad_x2_ptr,  # (B, T, D)
    grad_h0_ptr, grad_init_ptr,  # (B, D), (B, C, D), or None
    end_ptr, product_ptr, cut_ptr,  # with SUMMARY, (B, C - 1, D) twice, and (B, C - 1)
    length, chunk, width, blocks,
    x0_row, x0_step, x1_row, x1_step, x2_row, x2_step, resets_row, resets_step, h0_row,
    grad_h_row, grad_h_step, grad_last_row,
    GATES: tl.constexpr, CANDIDATE: tl.constexpr, SUMMARY: tl.constexpr,
    VEC: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a chunk."""
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    b = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1).to(tl.int64)
    channels = width * VEC
    mask = d < channels
    carry = tl.full([BLOCK], 0.0, dtype)  # the gradient of h[t] from step t + 1
    if not SUMMARY:
        if grad_last_ptr is not None:
            last_ptr = grad_last_ptr + b * grad_last_row * VEC + d
            carry = tl.load(last_ptr, mask=d < tl.where(c == 0, channels, 0), other=0.0)
        if ends_ptr is not None:
            row = b * (tl.num_programs(1) - 1) + c - 1
            before = tl.load(
                ends_ptr + row * channels + d, mask=d < tl.where(c > 0, channels, 0), other=0.0
            )
            carry = tl.where(c > 0, before, carry)
    start = tl.full([BLOCK], 0.0, dtype)
    if h0_ptr is not None:
        start = tl.load(h0_ptr + b * h0_row * VEC + d, mask=mask, other=0.0)
    fresh = tl.full([BLOCK], 0.0, dtype)
    if init_ptr is not None:
        fresh = tl.load(init_ptr + d, mask=mask, other=0.0)
    grad_fresh = tl.full([BLOCK], 0.0, dtype)
    product = tl.full([BLOCK], 1.0, dtype)

    last = length - 1 - c * chunk
    low = tl.maximum(last + 1 - chunk, 0)
    bits = tl.full([], 0, tl.int32)
    any_bits = bits
    if resets_ptr is not None:
        resets_ptr += b * resets_row
        bits = _starts(resets_ptr, last, -1, resets_step, low, length, STEPS)
    for i in tl.range(0, (last + 1 - low).to(tl.int32), STEPS, num_stages=STAGES):
        now = bits
        any_bits |= now
        if resets_ptr is not None:
            bits = _starts(resets_ptr, last - i - STEPS, -1, resets_step, low, length, STEPS)
        for u in tl.static_range(STEPS):
            t = last - (i + u)
            there = d < tl.where(t >= low, channels, 0)
            x0 = tl.load(x0_ptr + (b * x0_row + t * x0_step) * VEC + d, mask=there, other=0.0)
            x1 = tl.load(x1_ptr + (b * x1_row + t * x1_step) * VEC + d, mask=there, other=0.0)
            x0, x1 = x0.to(dtype), x1.to(dtype)
            decay, update, not_f, not_i = _gates(x0, x1, GATES)
            grad = carry
            if grad_h_ptr is not None:
                at = (b * grad_h_row + t * grad_h_step) * VEC + d
                grad += tl.load(grad_h_ptr + at, mask=there, other=0.0)
            cut = ((now >> u) & 1) != 0
            back = decay * grad
            carry = tl.where(t >= low, tl.where(cut, 0.0, back), carry)
            if SUMMARY:
                product = product * tl.where(cut, 0.0, decay)
            else:
                grad_fresh += tl.where(cut, back, 0.0)
                at = (b * length + t) * channels + d
                earlier = d < tl.where((t >= low) & (t > 0), channels, 0)
                before = tl.load(h_ptr + at - channels, mask=earlier, other=0.0)
                before = tl.where(cut, fresh, tl.where(t == 0, start, before))
                if GATES == "linear":
                    tl.store(grad_x0_ptr + at, before * grad, mask=there)
                    tl.store(grad_x1_ptr + at, grad, mask=there)
                else:
                    x = x1
                    if x2_ptr is not None:
                        x_at = (b * x2_row + t * x2_step) * VEC + d
                        x = tl.load(x2_ptr + x_at, mask=there, other=0.0).to(dtype)
                    value, slope = _candidate(x, CANDIDATE)
                    if GATES == "mingru":
                        tl.store(grad_x0_ptr + at, (value - before) * update * back, mask=there)
                        tl.store(grad_x1_ptr + at, grad * update * slope, mask=there)
                    else:
                        if GATES == "minlstm":  # decay and update depend on the same difference
                            grad_f = (before - value) * update * back
                            grad_i = -grad_f
                        else:
                            grad_f = before * back
                            grad_i = value * update * grad
                        tl.store(grad_x0_ptr + at, grad_f * not_f, mask=there)
                        tl.store(grad_x1_ptr + at, grad_i * not_i, mask=there)
                        tl.store(grad_x2_ptr + at, grad * update * slope, mask=there)

    if SUMMARY:
        row = b * tl.num_programs(1) + c
        tl.store(end_ptr + row * channels + d, carry, mask=mask)
        tl.store(product_ptr + row * channels + d, product, mask=mask)
        if resets_ptr is not None:
            tl.store(cut_ptr + row, any_bits != 0)
    else:
        if grad_h0_ptr is not None:
            tl.store(
                grad_h0_ptr + b * channels + d, carry, mask=d < tl.where(low == 0, channels, 0)
            )
        if grad_init_ptr is not None:
            row = b * tl.num_programs(1) + c
            tl.store(grad_init_ptr + row * channels + d, grad_fresh, mask=mask)
