# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""Matrix products for numba, a tile of rows and columns at a time, held in registers.

A matrix lies in blocks of columns, in the order in which a tile reads it: the biases of a block's
columns, then for each input its weights to these columns. Every sum runs over the inputs in order,
whatever the tile: what comes out for a row does not depend on the rows beside it, to the last bit.
"""

from __future__ import annotations

import itertools

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from minrnn.scan.cpu.simd import FEATURES

LANES = 16  # numbers in a vector: one line of the cache
_WIDE = "+avx512f" in FEATURES
VECTORS = 4 if _WIDE else 2
"""Vectors of columns in a block; the columns that are left over come in blocks of one."""
ROWS = (6, 4, 2) if _WIDE else (2, 2, 2)
"""Rows of a tile, largest first. With VECTORS: as many sums as there are registers for."""


def padded(size: int) -> int:
    """Return the least whole number of vectors that holds `size` numbers, in numbers."""
    return -(-size // LANES) * LANES


def blocks(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weight (N, depth) and bias (N,) as a tile reads them; columns beyond N are zero."""
    count, depth = weight.shape
    rows = np.zeros((1 + depth, padded(count)), np.float32)
    rows[0, :count], rows[1:, :count] = bias, weight.T
    wide = LANES * VECTORS
    many = padded(count) // wide * wide
    starts = [*range(0, many, wide), *range(many, padded(count), LANES), padded(count)]
    parts = [rows[:, a:b].ravel() for a, b in itertools.pairwise(starts)]
    return np.concatenate(parts)


@intrinsic
def ints(typing, address):
    """Return an address as a pointer to int64."""
    kind = types.CPointer(types.int64)

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(kind))

    return kind(address), generate


@intrinsic
def total(typing, vector):
    """Return the sum of a vector's numbers."""

    def generate(context, builder, signature, values):
        value, lanes = values[0], vector.lanes
        while lanes > 1:  # halves upon each other
            lanes //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            index = ir.VectorType(ir.IntType(32), lanes)
            low = builder.shuffle_vector(value, undefined, ir.Constant(index, [*range(lanes)]))
            high = ir.Constant(index, [*range(lanes, 2 * lanes)])
            value = builder.fadd(low, builder.shuffle_vector(value, undefined, high))
        return builder.extract_element(value, ir.IntType(32)(0))

    return vector.dtype(vector), generate


@intrinsic(prefer_literal=True)
def tile(typing, w, at_w, x, at_x, step_x, depth, out, at_out, step_out, add, rows, vectors):
    """Do out = [out +] bias + x W for so many rows, and the vectors of columns of one block.

    w, x, out: pointers to float32. at_*: where to begin. step_*: from one row to the next.
    add: 1 to add to what is there, else 0. rows and vectors are constants.
    """
    shape = rows.literal_value, vectors.literal_value

    def generate(context, builder, signature, values):
        _emit(builder, *values[:10], *shape, None)
        return context.get_dummy_value()

    return types.void(
        w, at_w, x, at_x, step_x, depth, out, at_out, step_out, add, rows, vectors
    ), generate


@intrinsic(prefer_literal=True)
def thin_tile(typing, w, at_w, x, at_x, picked, depth, out, at_out, add, vectors):
    """Do as `tile` for one row of which `depth` inputs are not zero: x holds these alone.

    picked: a pointer to int64, which inputs they are, in order. Only their weights are read.
    """
    count = vectors.literal_value

    def generate(context, builder, signature, values):
        w, at_w, x, at_x, picked, depth, out, at_out, add = values[:9]
        none = ir.IntType(64)(0)
        _emit(
            builder, w, at_w, x, at_x, none, depth, out, at_out, none, add, 1, count, picked
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(w, at_w, x, at_x, picked, depth, out, at_out, add, vectors), generate


def _emit(builder, w, at_w, x, at_x, step_x, depth, out, at_out, step_out, add, R, V, picked):
    i64, i32, number = ir.IntType(64), ir.IntType(32), ir.FloatType()
    vector = ir.VectorType(number, LANES)
    undefined = ir.Constant(vector, ir.Undefined)

    def place(pointer, index):
        return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())

    def column(index, v):
        return builder.add(index, i64(LANES * v))

    def row(pointer, start, step, r):
        return builder.gep(pointer, [builder.add(start, builder.mul(step, i64(r)))])

    bias = [builder.load(place(w, column(at_w, v)), align=64) for v in range(V)]
    inputs = [row(x, at_x, step_x, r) for r in range(R)]
    first = builder.gep(w, [builder.add(at_w, i64(LANES * V))])
    before = builder.block
    body = builder.append_basic_block("inputs")
    after = builder.append_basic_block("sums")
    builder.branch(body)

    builder.position_at_end(body)
    k = builder.phi(i64)
    k.add_incoming(i64(0), before)
    sums = [builder.phi(vector) for _ in range(R * V)]
    index = k if picked is None else builder.load(builder.gep(picked, [k]))
    start = builder.mul(index, i64(LANES * V))
    weights = [builder.load(place(first, column(start, v)), align=64) for v in range(V)]
    new = []
    for r in range(R):
        value = builder.load(builder.gep(inputs[r], [k]))
        lane = builder.insert_element(undefined, value, i32(0))
        everywhere = builder.shuffle_vector(
            lane, undefined, ir.Constant(ir.VectorType(i32, LANES), None)
        )
        for v in range(V):
            product = builder.fmul(everywhere, weights[v], flags=("contract",))
            new.append(builder.fadd(sums[r * V + v], product, flags=("contract",)))
    following = builder.add(k, i64(1))
    k.add_incoming(following, body)
    for i, phi in enumerate(sums):
        phi.add_incoming(bias[i % V], before)
        phi.add_incoming(new[i], body)
    builder.cbranch(builder.icmp_signed("<", following, depth), body, after)

    builder.position_at_end(after)
    adds = builder.icmp_signed("!=", add, add.type(0))
    with builder.if_else(adds) as (yes, no):
        for branch, old in ((yes, True), (no, False)):
            with branch:
                for i, value in enumerate(new):
                    target = place(row(out, at_out, step_out, i // V), i64(LANES * (i % V)))
                    if old:
                        value = builder.fadd(builder.load(target, align=4), value)
                    builder.store(value, target, align=4)
