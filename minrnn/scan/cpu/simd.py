# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false
"""Vectors for numba: arithmetic on `Vec` compiles to SIMD instructions on any CPU.

LLVM does not reliably vectorise a loop over so many arrays, and numba's own arrays count references
and wrap negative indices in the innermost loop: memory is read through pointers, unchecked. A
product and a sum may be contracted to one instruction; nothing else is reordered, and NaN is kept.
"""

from __future__ import annotations

import operator
import platform

import numba
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic, models, overload, register_model

LINE = 64  # bytes: a vector is one line of the cache, whatever the registers of this CPU hold

_named: str | None = getattr(config, "CPU_FEATURES", None)
FEATURES = frozenset((get_host_cpu_features() if _named is None else _named).split(","))
"""What numba compiles for, as LLVM names it: +avx512f. Empty for NUMBA_CPU_NAME=generic."""
_HALVES = "+f16c" in FEATURES or platform.machine().lower() in ("aarch64", "arm64")
"""Whether the CPU converts float16; LLVM would call a function that is not there."""

inline = numba.njit(forceinline=True)


class Vec(types.Type):
    """`lanes` numbers of `dtype`, float32 or float64."""

    def __init__(self, dtype: types.Float, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vec({dtype}, {lanes})")

    @property
    def ir(self) -> ir.VectorType:
        """Return the type in LLVM."""
        scalar = ir.FloatType() if self.dtype == types.float32 else ir.DoubleType()
        return ir.VectorType(scalar, self.lanes)

    @property
    def bits(self) -> ir.VectorType:
        """Return the type of its bits in LLVM."""
        return ir.VectorType(ir.IntType(self.dtype.bitwidth), self.lanes)


class Mask(types.Type):
    """The type of a comparison of two vectors."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Mask({lanes})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        super().__init__(manager, vec, vec.ir)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, mask):
        super().__init__(manager, mask, ir.VectorType(ir.IntType(1), mask.lanes))


# The types of stored numbers by name; for numba, numbers of 16 bits are integers.
STORED = {
    "float64": types.float64,
    "float32": types.float32,
    "bfloat16": types.uint16,
    "float16": types.int16,
    "bool": types.uint8,
}


@intrinsic(prefer_literal=True)
def at(typing, address, stored):
    """Return an address (an int) as a pointer to what is stored there, a key of STORED."""
    kind = types.CPointer(STORED[stored.literal_value])

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(kind))

    return kind(address, stored), generate


@intrinsic
def line_of(typing, pointer):
    """Return a vector of zeros, as many as fill a cache line in the stored type."""
    vec = Vec(pointer.dtype, LINE * 8 // pointer.dtype.bitwidth)
    return vec(pointer), lambda context, builder, signature, values: ir.Constant(vec.ir, None)


@intrinsic
def lane_of(typing, pointer):
    """Return a vector of one zero."""
    vec = Vec(pointer.dtype, 1)
    return vec(pointer), lambda context, builder, signature, values: ir.Constant(vec.ir, None)


@intrinsic
def flag(typing, pointer, index):
    """Return pointer[index], a bool."""

    def generate(context, builder, signature, values):
        byte = builder.load(builder.gep(values[0], [values[1]]))
        return builder.icmp_unsigned("!=", byte, byte.type(0))

    return types.boolean(pointer, index), generate


@intrinsic
def load(typing, source, index, like):
    """Return source[index : index + lanes] as a vector of the type of `like`."""

    def generate(context, builder, signature, values):
        stored = _stored(source.dtype, like.lanes)
        place = builder.gep(values[0], [values[1]])
        place = builder.bitcast(place, stored.as_pointer())
        value = builder.load(place, align=source.dtype.bitwidth // 8)
        return _widen(builder, value, source.dtype, like)

    return like(source, index, like), generate


@intrinsic
def store(typing, target, index, value):
    """Do target[index : index + lanes] = value."""

    def generate(context, builder, signature, values):
        bits = _narrow(builder, values[2], target.dtype, value)
        place = builder.gep(values[0], [values[1]])
        place = builder.bitcast(place, bits.type.as_pointer())
        builder.store(bits, place, align=target.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(target, index, value), generate


@intrinsic
def stream(typing, target, index, value):
    """Do as `store`, past the caches; the address must be aligned to the vector's size."""

    def generate(context, builder, signature, values):
        bits = _narrow(builder, values[2], target.dtype, value)
        place = builder.gep(values[0], [values[1]])
        place = builder.bitcast(place, bits.type.as_pointer())
        size = value.lanes * target.dtype.bitwidth // 8
        stored = builder.store(bits, place, align=size)
        one = builder.module.add_metadata([ir.IntType(32)(1)])
        stored.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(target, index, value), generate


@intrinsic
def fence(typing):
    """Make streamed data visible to other threads."""

    def generate(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def prefetch(typing, source, index):
    """Prefetch the cache line of source[index], which need not exist."""

    def generate(context, builder, signature, values):
        place = builder.gep(values[0], [values[1]])
        byte = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.globals.get("llvm.prefetch.p0")
        if function is None:
            function = ir.Function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.bitcast(place, byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(source, index), generate


@intrinsic
def power_of_two(typing, value):
    """Return 2 ** n for a vector of n + 1.5 * 2 ** (mantissa bits): n sits in its low bits."""
    shift, bias = (23, 127) if value.dtype == types.float32 else (52, 1023)

    def generate(context, builder, signature, values):
        bits = builder.bitcast(values[0], value.bits)
        bits = builder.shl(bits, _splat(value.bits, shift))
        return builder.bitcast(builder.add(bits, _splat(value.bits, bias << shift)), value.ir)

    return value(value), generate


@intrinsic
def negative_magnitude(typing, value):
    """Return -|value|."""
    sign = 1 << (value.dtype.bitwidth - 1)

    def generate(context, builder, signature, values):
        bits = builder.bitcast(values[0], value.bits)
        return builder.bitcast(builder.or_(bits, _splat(value.bits, sign)), value.ir)

    return value(value), generate


@intrinsic
def where(typing, mask, yes, no):
    """Return yes where the mask is set, else no."""

    def generate(context, builder, signature, values):
        return builder.select(*values)

    return yes(mask, yes, no), generate


def _binary(name):
    @intrinsic
    def function(typing, left, right):
        def generate(context, builder, signature, values):
            return getattr(builder, name)(*values, flags=("contract",))

        return left(left, right), generate

    return function


def _comparison(symbol):
    @intrinsic
    def function(typing, left, right):
        def generate(context, builder, signature, values):
            return builder.fcmp_ordered(symbol, *values)  # NaN: not set

        return Mask(left.lanes)(left, right), generate

    return function


@intrinsic
def full(typing, value, like):
    """Return a vector of the type of `like` that holds the number everywhere."""

    def generate(context, builder, signature, values):
        scalar = context.cast(builder, values[0], value, like.dtype)
        one = builder.insert_element(ir.Constant(like.ir, ir.Undefined), scalar, ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), like.lanes), None)
        return builder.shuffle_vector(one, ir.Constant(like.ir, ir.Undefined), mask)

    return like(value, like), generate


def _define(symbol, function):
    @overload(symbol)
    def _(left, right):
        if isinstance(left, Vec) and isinstance(right, Vec):
            return lambda left, right: function(left, right)
        if isinstance(left, Vec) and isinstance(right, types.Number):
            return lambda left, right: function(left, full(right, left))
        if isinstance(left, types.Number) and isinstance(right, Vec):
            return lambda left, right: function(full(left, right), right)
        return None


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _binary(_name))
for _symbol, _name in ((operator.ge, ">="), (operator.gt, ">"), (operator.lt, "<")):
    _define(_symbol, _comparison(_name))


@overload(operator.neg)
def _neg(value):
    if isinstance(value, Vec):
        return lambda value: -0.0 - value
    return None


def _splat(vector, number):
    return ir.Constant(vector, [vector.element(number)] * vector.count)


def _stored(dtype, lanes):
    scalar = {16: ir.IntType(16), 32: ir.FloatType(), 64: ir.DoubleType()}[dtype.bitwidth]
    return ir.VectorType(scalar, lanes)


def _widen(builder, value, dtype, vec):
    if dtype == types.uint16:  # bfloat16: the upper half of a float32
        bits = builder.shl(builder.zext(value, vec.bits), _splat(vec.bits, 16))
        return builder.bitcast(bits, vec.ir)
    if dtype == types.int16:
        if not _HALVES:
            return _from_half(builder, value, vec)
        half = builder.bitcast(value, ir.VectorType(ir.HalfType(), vec.lanes))
        return builder.fpext(half, vec.ir)
    return value


def _narrow(builder, value, dtype, vec):
    short = ir.VectorType(ir.IntType(16), vec.lanes)
    if dtype == types.uint16:
        # To the nearest, ties to even. NaN keeps its upper bits, made quiet.
        bits = builder.bitcast(value, vec.bits)
        upper = builder.lshr(bits, _splat(vec.bits, 16))
        odd = builder.and_(upper, _splat(vec.bits, 1))
        rounded = builder.add(builder.add(bits, odd), _splat(vec.bits, 0x7FFF))
        rounded = builder.lshr(rounded, _splat(vec.bits, 16))
        quiet = builder.or_(upper, _splat(vec.bits, 0x40))
        nan = builder.fcmp_unordered("uno", value, value)
        return builder.trunc(builder.select(nan, quiet, rounded), short)
    if dtype == types.int16:
        if not _HALVES:
            return _to_half(builder, value, vec)
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), vec.lanes))
        return builder.bitcast(half, short)
    return value


def _from_half(builder, value, vec):
    def constant(number):
        return _splat(vec.bits, number)

    bits = builder.zext(value, vec.bits)
    size = builder.shl(builder.and_(bits, constant(0x7FFF)), constant(13))
    # Its exponent is biased by 15, a float32's by 127; this product is exact for subnormals, too.
    scale = ir.Constant(vec.ir, [vec.ir.element(2.0**112)] * vec.lanes)
    finite = builder.bitcast(builder.fmul(builder.bitcast(size, vec.ir), scale), vec.bits)
    other = builder.or_(size, constant(0x7F800000))  # infinity and NaN
    is_finite = builder.icmp_unsigned("<", size, constant(0x7C00 << 13))
    sign = builder.shl(builder.and_(bits, constant(0x8000)), constant(16))
    return builder.bitcast(builder.or_(builder.select(is_finite, finite, other), sign), vec.ir)


def _to_half(builder, value, vec):
    """To the nearest, ties to even, as the CPU's instruction does."""

    def constant(number):
        return _splat(vec.bits, number)

    bits = builder.bitcast(value, vec.bits)
    size = builder.and_(bits, constant(0x7FFFFFFF))
    odd = builder.and_(builder.lshr(size, constant(13)), constant(1))
    normal = builder.add(builder.add(size, odd), constant(0xFFF - (112 << 23) & 0xFFFFFFFF))
    normal = builder.lshr(normal, constant(13))
    too_large = builder.icmp_unsigned(">=", size, constant(0x47800000))  # 2 ** 16
    normal = builder.select(too_large, constant(0x7C00), normal)
    half = ir.Constant(vec.ir, [vec.ir.element(0.5)] * vec.lanes)  # whose last bit is 2 ** -24
    small = builder.bitcast(builder.fadd(builder.bitcast(size, vec.ir), half), vec.bits)
    small = builder.sub(small, constant(0x3F000000))
    is_small = builder.icmp_unsigned("<", size, constant(0x38800000))  # 2 ** -14
    number = builder.select(is_small, small, normal)
    upper = builder.and_(builder.lshr(size, constant(13)), constant(0x3FF))
    quiet = builder.or_(upper, constant(0x7E00))
    nan = builder.icmp_unsigned(">", size, constant(0x7F800000))
    sign = builder.and_(builder.lshr(bits, constant(16)), constant(0x8000))
    whole = builder.or_(builder.select(nan, quiet, number), sign)
    return builder.trunc(whole, ir.VectorType(ir.IntType(16), vec.lanes))
