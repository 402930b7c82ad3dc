"""Small products of float32 matrices in registers, for attention: vectors of 16 lanes, which LLVM fits to any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgenetllm.edge.compiled.functions import compiled

LANES = 16
VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _tile(rows: int, vectors: int) -> Callable[..., None]:
    """A function for `c = a @ b` with this number of rows and of vectors of 16 columns, its sums all in registers.

    Each array comes flat, with the place of its first number and the distance from row to row; `inner` is the number of
    columns of a.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        a, a_at, a_stride, b, b_at, b_stride, c, c_at, c_stride, inner = arguments
        starts = [
            builder.gep(context.make_array(kind)(context, builder, array).data, [place])
            for kind, array, place in zip(signature.args[::3], (a, b, c), (a_at, b_at, c_at), strict=False)
        ]
        sums = [
            [cgutils.alloca_once_value(builder, ir.Constant(VECTOR, None)) for _ in range(vectors)] for _ in range(rows)
        ]
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        with cgutils.for_range(builder, inner) as loop:
            row = builder.gep(starts[1], [builder.mul(loop.index, b_stride)])
            loaded = [_load(builder, row, vector) for vector in range(vectors)]
            for r in range(rows):
                place = builder.add(loop.index, builder.mul(a_stride, ir.Constant(a_stride.type, r)))
                factor = _spread(builder, builder.load(builder.gep(starts[0], [place])))
                for v in range(vectors):
                    total = builder.call(multiply_add, [factor, loaded[v], builder.load(sums[r][v])])
                    builder.store(total, sums[r][v])
        for r in range(rows):
            row = builder.gep(starts[2], [builder.mul(c_stride, ir.Constant(c_stride.type, r))])
            for v in range(vectors):
                builder.store(builder.load(sums[r][v]), _vector(builder, row, v), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(context, a, a_at, a_stride, b, b_at, b_stride, c, c_at, c_stride, inner):  # type: ignore[no-untyped-def]
        whole = types.int64
        return types.void(a, whole, whole, b, whole, whole, c, whole, whole, whole), generate

    return tile  # type: ignore[no-any-return]


def _vector(builder: ir.IRBuilder, row: ir.Value, index: int) -> ir.Value:
    """Pointer to the vector of this index in a row."""
    start = builder.gep(row, [ir.Constant(ir.IntType(64), LANES * index)])
    return builder.bitcast(start, VECTOR.as_pointer())


def _load(builder: ir.IRBuilder, row: ir.Value, index: int) -> ir.Value:
    return builder.load(_vector(builder, row, index), align=4)


def _spread(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """A vector of 16 times this number."""
    zero = ir.Constant(ir.IntType(32), 0)
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, zero)
    return builder.shuffle_vector(
        first, ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    )


_one_by_one, _one_by_two, _one_by_four = _tile(1, 1), _tile(1, 2), _tile(1, 4)
_two_by_one, _two_by_two, _two_by_four = _tile(2, 1), _tile(2, 2), _tile(2, 4)
_three_by_one, _three_by_two, _three_by_four = _tile(3, 1), _tile(3, 2), _tile(3, 4)


@compiled
def multiply_tiles(a, a_at, a_stride, b, b_at, b_stride, c, c_at, c_stride, rows, inner, columns):  # type: ignore[no-untyped-def]
    """`c = a @ b`, (rows, inner) @ (inner, columns), in flat float32 arrays: where each begins, and from row to row.

    Whole vectors of 16 columns are read and written: up to 15 numbers beyond the last column must belong to the arrays.
    """
    row = 0
    while row < rows:
        count = min(3, rows - row)
        left, right, result = a_at + row * a_stride, b_at, c_at + row * c_stride
        remaining = (columns + 15) // 16
        while remaining > 0:
            vectors = 4 if remaining >= 4 else 2 if remaining >= 2 else 1
            if count == 3:
                if vectors == 4:
                    _three_by_four(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
                elif vectors == 2:
                    _three_by_two(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
                else:
                    _three_by_one(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
            elif count == 2:
                if vectors == 4:
                    _two_by_four(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
                elif vectors == 2:
                    _two_by_two(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
                else:
                    _two_by_one(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
            elif vectors == 4:
                _one_by_four(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
            elif vectors == 2:
                _one_by_two(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
            else:
                _one_by_one(a, left, a_stride, b, right, b_stride, c, result, c_stride, inner)
            right, result, remaining = right + 16 * vectors, result + 16 * vectors, remaining - vectors
        row += count
