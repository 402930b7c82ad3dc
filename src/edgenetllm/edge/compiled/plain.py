"""Products of a block of 16 rows by one token in LLVM vector code that suits any processor."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgenetllm.edge.compiled.instructions import features
from edgenetllm.edge.compiled.vectors import (
    F32,
    F64,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    LANES,
    Builder,
    Value,
    halves,
    load,
    scaled,
    splat,
)


def pair_products(b: Builder, weights: Value, activations: Value) -> Value:
    """<16 x i16> by <16 x i16> -> <8 x i32>: sums of two products (pmaddwd, which LLVM does not find by itself)."""
    pairs = ir.VectorType(I32, 8)
    if "avx2" in features():
        kind = ir.FunctionType(pairs, [weights.type] * 2)
        return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx2.pmadd.wd"), [weights, activations])
    places = zip(halves(b, weights), halves(b, activations), strict=True)
    return b.add(*[b.mul(b.sext(weight, pairs), b.sext(activation, pairs)) for weight, activation in places])


def emit_any(b: Builder, block: Value, values: Value, windows: Value, x: Value, token_scale: Value, out: Value) -> None:
    """One token by one block in the order of DENSE, four rows at a time, without AVX-512.

    A 32-bit lane sums two products of 8-bit weights and 16-bit activations at a time: 1024 columns add up to at most
    512 * 128 * 32767 < 2**31.
    """
    four, sixteen = ir.VectorType(F64, 4), ir.VectorType(I16, 16)
    totals = [cgutils.alloca_once(b, four) for _ in range(4)]
    sums = [cgutils.alloca_once(b, ir.VectorType(I32, 8)) for _ in range(4)]
    for total in totals:
        b.store(ir.Constant(four, None), total)
    with cgutils.for_range(b, b.lshr(b.add(windows, I64(15)), I64(4))) as chunk:
        first = b.shl(chunk.index, I64(8))  # groups of four columns
        left = b.sub(b.shl(windows, I64(4)), first)
        for place in sums:
            b.store(ir.Constant(ir.VectorType(I32, 8), None), place)
        with cgutils.for_range(b, b.select(b.icmp_signed("<", left, I64(256)), left, I64(256))) as loop:
            group = b.add(first, loop.index)
            vectors = b.add(values, b.shl(group, I64(6)))
            activations = b.bitcast(splat(b, load(b, I64, b.add(x, b.shl(group, I64(3)))), 4), sixteen)
            for quarter, place in enumerate(sums):
                weights = load(b, ir.VectorType(I8, 16), b.add(vectors, I64(16 * quarter)))
                products = pair_products(b, b.sext(weights, sixteen), activations)
                b.store(b.add(b.load(place), products), place)
        for place, total in zip(sums, totals, strict=True):
            even, odd = halves(b, b.sitofp(b.load(place), ir.VectorType(F64, 8)))
            b.store(b.fadd(b.load(total), b.fadd(even, odd)), total)
    for quarter, total in enumerate(totals):
        here = I64(16 * quarter)
        results = scaled(b, b.load(total), b.add(block, here), token_scale)
        b.store(results, b.inttoptr(b.add(out, here), results.type.as_pointer()), align=4)


@intrinsic
def any_rows(typing, block, values, windows, x, token_scale, out):  # type: ignore
    """Multiply the block whose header is at `block` by the int16 activations of a token at `x`: 16 results at `out`."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        emit_any(b, *args)
        return context.get_dummy_value()

    return types.none(*[types.int64] * 6), codegen


def emit_bf16(b: Builder, values: Value, columns: Value, x: Value, out: Value) -> None:
    """One token by one block of bfloat16: four sums a row, so that none waits for the one before."""
    totals = [cgutils.alloca_once(b, FLOATS) for _ in range(4)]
    for total in totals:
        b.store(ir.Constant(FLOATS, None), total)

    def add(column: Value, total: Value) -> None:
        half = load(b, ir.VectorType(I16, 16), b.add(values, b.shl(column, I64(5))))
        weights = b.bitcast(b.shl(b.zext(half, LANES), ir.Constant(LANES, [16] * 16)), FLOATS)
        activation = splat(b, load(b, F32, b.add(x, b.shl(column, I64(2))), 4), 16)
        b.store(b.fadd(b.load(total), b.fmul(weights, activation, ("contract",)), ("contract",)), total)

    with cgutils.for_range(b, b.lshr(columns, I64(2))) as loop:
        for place, total in enumerate(totals):
            add(b.add(b.shl(loop.index, I64(2)), I64(place)), total)
    whole = b.and_(columns, I64(~3))
    with cgutils.for_range(b, b.sub(columns, whole)) as loop:
        add(b.add(whole, loop.index), totals[0])
    one, two, three, four = (b.load(total) for total in totals)
    result = b.fadd(b.fadd(one, two), b.fadd(three, four))
    b.store(result, b.inttoptr(out, FLOATS.as_pointer()), align=4)


@intrinsic
def bf16_rows(typing, values, columns, x, out):  # type: ignore
    """Multiply the bfloat16 block at `values` by the float32 activations of a token at `x`: 16 results at `out`."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        emit_bf16(b, *args)
        return context.get_dummy_value()

    return types.none(*[types.int64] * 4), codegen
