"""LLVM vector operations, from which the products are put together. Addresses are int64."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Builder = Any
Value = Any

I1, I8, I16, I32, I64, F32, F64 = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
    ir.DoubleType(),
)
BYTES = ir.VectorType(I8, 64)
LANES = ir.VectorType(I32, 16)
FLOATS = ir.VectorType(F32, 16)
DOUBLES = ir.VectorType(F64, 16)
AHEAD = 16384  # bytes


def load(b: Builder, kind: ir.Type, address: Value, align: int = 1) -> Value:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=align)


def splat(b: Builder, value: Value, count: int) -> Value:
    """A vector of `count` times the same scalar."""
    vector = ir.VectorType(value.type, count)
    one = b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, count), [0] * count))


def dot(b: Builder, sums: Value, activations: Value, weights: Value) -> Value:
    """Each lane's sum plus four products (vpdpbusd; LLVM 20 and 22 both take <16 x i32> operands)."""
    function = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(LANES, [LANES] * 3), "llvm.x86.avx512.vpdpbusd.512"
    )
    return b.call(function, [sums, b.bitcast(activations, LANES), b.bitcast(weights, LANES)])


def expand(b: Builder, values: Value, mask: Value, zeros: Value) -> Value:
    """The bytes of `values` in the places that `mask` names, and those of `zeros` elsewhere (vpexpandb).

    LLVM must not know that `zeros` is zero, or it writes the form that clears its destination: on Zen 4 that waits for what
    was in the register before, and a chain of these takes several times longer.
    """
    places = ir.VectorType(I1, 64)
    function = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(BYTES, [BYTES, BYTES, places]), "llvm.x86.avx512.mask.expand.v64i8"
    )
    return b.call(function, [values, zeros, b.bitcast(mask, places)])


def pick(b: Builder, low: Value, places: Value, high: Value) -> Value:
    """The bytes of two vectors at 64 places of 128 (vpermi2b)."""
    function = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(BYTES, [BYTES] * 3), "llvm.x86.avx512.vpermi2var.qi.512"
    )
    return b.call(function, [low, places, high])


def popcount(b: Builder, mask: Value) -> Value:
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I64, [I64]), "llvm.ctpop.i64"), [mask])


def high_bits(b: Builder, word: Value) -> Value:
    """The highest bits of eight bytes, as one byte (pext)."""
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(I64, [I64, I64]), "llvm.x86.bmi.pext.64")
    return b.call(function, [word, I64(0x8080808080808080)])


def prefetch(b: Builder, address: Value) -> None:
    """Ask for the cache line that is AHEAD of `address`, in the L2 cache: to L1 fewer lines can be on their way.

    Measured on Zen 4 with matrices in DRAM: tiles take half as long for four tokens, two thirds for three, but a fifth longer
    for one; the other layouts take longer. The processor's own prefetchers do well where a line is used every few cycles.
    """
    kinds = [I8.as_pointer(), I32, I32, I32]
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
    b.call(function, [b.inttoptr(b.add(address, I64(AHEAD)), I8.as_pointer()), I32(0), I32(1), I32(1)])


def halves(b: Builder, vector: Value) -> tuple[Value, Value]:
    """The even and the odd places of a vector."""
    count = vector.type.count
    kind = ir.VectorType(I32, count // 2)
    even, odd = (ir.Constant(kind, list(range(first, count, 2))) for first in (0, 1))
    return b.shuffle_vector(vector, vector, even), b.shuffle_vector(vector, vector, odd)


def scaled(b: Builder, totals: Value, row_scales: Value, token_scale: Value) -> Value:
    """float32(total * (row scale * token scale)): the inner product is exact in float64."""
    count = totals.type.count
    single = ir.VectorType(F32, count)
    rows = b.fpext(load(b, single, row_scales), totals.type)
    token = splat(b, b.fpext(load(b, F32, token_scale), F64), count)
    return b.fptrunc(b.fmul(totals, b.fmul(rows, token)), single)


@intrinsic
def address_of(typing, array):  # type: ignore
    """The address of an array's first element."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.ptrtoint(context.make_array(sig.args[0])(context, b, args[0]).data, I64)

    return types.int64(array), codegen


@intrinsic
def trailing_zeros(typing, mask):  # type: ignore
    """The place of the lowest bit of a uint64 that is not zero."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.cttz(args[0], I1(True))

    return types.int64(types.uint64), codegen
