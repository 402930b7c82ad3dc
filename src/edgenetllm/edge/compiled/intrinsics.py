"""Products of a block of 16 rows as LLVM vector code, emitted for a fixed number of tokens.

Each function multiplies one block by 1 to 4 tokens and writes 16 results for each. Activations come as two byte planes,
`x = scale * (256 * high + low - 32768)`, since vpdpbusd multiplies unsigned bytes by signed ones: four products a lane, added
to its 32-bit sum. The sums are exact: (high sum - 128 * sum of the row) * 256 + low sum is an integer that float64 holds.
Addresses are int64. Nothing of AVX-512 is emitted where numba compiles for a processor without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgenetllm.edge.compiled.instructions import compiles_avx512

binding.initialize_native_asmparser()

Builder = Any
Value = Any

I1, I8, I16, I32, I64, F32, F64 = ir.IntType(1), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
import os
AHEAD = int(os.environ.get('AHEAD','2048'))
BYTES = ir.VectorType(I8, 64)
LANES = ir.VectorType(I32, 16)
FLOATS = ir.VectorType(F32, 16)
DOUBLES = ir.VectorType(F64, 16)


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
    kind = ir.FunctionType(BYTES, [BYTES, BYTES, places])
    return b.asm(kind, "vpexpandb $2, $0 {$3}", "=v,0,v,^Yk", [zeros, values, b.bitcast(mask, places)], False)


def pick(b: Builder, low: Value, places: Value, high: Value) -> Value:
    """The bytes of two vectors at 64 places of 128 (vpermi2b)."""
    function = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(BYTES, [BYTES] * 3), "llvm.x86.avx512.vpermi2var.qi.512"
    )
    return b.call(function, [low, places, high])


def popcount(b: Builder, mask: Value) -> Value:
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I64, [I64]), "llvm.ctpop.i64"), [mask])


def prefetch(b: Builder, address: Value) -> None:
    """Ask for the cache line that is AHEAD of `address`: the processor's own prefetchers stop at every 4 KiB page."""
    kinds = [I8.as_pointer(), I32, I32, I32]
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
    b.call(function, [b.inttoptr(b.add(address, I64(AHEAD)), I8.as_pointer()), I32(0), I32(3), I32(1)])


class Planes:
    """The byte planes of some tokens: (tokens, 2, stride) from `address` on."""

    def __init__(self, b: Builder, address: Value, stride: Value, tokens: int) -> None:
        self.starts = [b.add(address, b.mul(stride, I64(plane))) for plane in range(2 * tokens)]

    def words(self, b: Builder, offset: Value) -> list[Value]:
        """Four bytes of each plane, in all lanes."""
        return [splat(b, load(b, I32, b.add(start, offset)), 16) for start in self.starts]

    def vectors(self, b: Builder, offset: Value) -> list[Value]:
        """64 bytes of each plane."""
        return [load(b, BYTES, b.add(start, offset)) for start in self.starts]


def zeroed(b: Builder, count: int) -> list[Value]:
    """Sums in places that LLVM turns into registers."""
    places = [cgutils.alloca_once(b, LANES) for _ in range(count)]
    for place in places:
        b.store(ir.Constant(LANES, None), place)
    return places


def accumulate(b: Builder, sums: list[Value], activations: list[Value], weights: Value) -> None:
    for place, values in zip(sums, activations, strict=True):
        b.store(dot(b, b.load(place), values, weights), place)


def finished(b: Builder, sums: list[Value], row_sums: Value, scales: Value, token_scales: Value) -> list[Value]:
    """The 16 results of each token as float32: the exact sum times both scales, computed in float64."""
    corrections = load(b, LANES, row_sums)
    row_scales = b.fpext(load(b, FLOATS, scales), DOUBLES)
    results = []
    for token in range(len(sums) // 2):
        high = b.sitofp(b.sub(b.load(sums[2 * token]), corrections), DOUBLES)
        low = b.sitofp(b.load(sums[2 * token + 1]), DOUBLES)
        total = b.fadd(b.fmul(high, splat(b, F64(256.0), 16)), low)
        scale = splat(b, b.fpext(load(b, F32, b.add(token_scales, I64(4 * token))), F64), 16)
        results.append(b.fptrunc(b.fmul(total, b.fmul(row_scales, scale)), FLOATS))
    return results


def write_rows(b: Builder, results: list[Value], out: Value, stride: Value, count: Value) -> None:
    """The first `count` of 16 results of each token, to `out` and every `stride` bytes after it."""
    wanted = b.icmp_signed("<", ir.Constant(LANES, list(range(16))), splat(b, b.trunc(count, I32), 16))
    kinds = [FLOATS, FLOATS.as_pointer(), I32, wanted.type]
    store = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.masked.store.v16f32.p0")
    for token, values in enumerate(results):
        address = b.add(out, b.mul(stride, I64(token)))
        b.call(store, [values, b.inttoptr(address, FLOATS.as_pointer()), I32(4), wanted])


def write_ordered(b: Builder, results: list[Value], out: Value, stride: Value, order: Value) -> None:
    """Each lane's result to the row that `order` says, lane 0 last."""
    for lane in reversed(range(16)):
        row = b.sext(load(b, I32, b.add(order, I64(4 * lane)), 4), I64)
        place = b.add(out, b.mul(row, I64(4)))
        for token, values in enumerate(results):
            address = b.add(place, b.mul(stride, I64(token)))
            b.store(b.extract_element(values, I32(lane)), b.inttoptr(address, F32.as_pointer()), align=4)


Emit = Callable[..., None]


def signature(emit: Emit, tokens: types.Type, rest: tuple[types.Type, ...]) -> Any:
    """The typed signature of a product and its code, empty where AVX-512 is not there."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Any:
        if compiles_avx512():
            emit(b, tokens.literal_value, *args[1:])
        return context.get_dummy_value()

    return types.none(tokens, *[types.int64] * len(rest)), codegen  # code is found by these types


def emit_dense(
    b: Builder, tokens: int, values: Value, groups: Value, planes: Value, plane: Value, sums: Value, scales: Value,
    token_scales: Value, out: Value, stride: Value, count: Value,
) -> None:  # fmt: skip
    activations, totals = Planes(b, planes, plane, tokens), zeroed(b, 2 * tokens)
    with cgutils.for_range(b, groups) as loop:
        weights = load(b, BYTES, b.add(values, b.shl(loop.index, I64(6))))
        prefetch(b, b.add(values, b.shl(loop.index, I64(6))))
        accumulate(b, totals, activations.words(b, b.shl(loop.index, I64(2))), weights)
    write_rows(b, finished(b, totals, sums, scales, token_scales), out, stride, count)


def emit_bitmask(
    b: Builder, tokens: int, values: Value, groups: Value, planes: Value, plane: Value, sums: Value, scales: Value,
    token_scales: Value, out: Value, stride: Value, count: Value,
) -> None:  # fmt: skip
    """Eight masks and then the values of their eight vectors, again and again: one stream, which prefetching follows."""
    activations, totals = Planes(b, planes, plane, tokens), zeroed(b, 2 * tokens)
    zeros = b.bitcast(splat(b, b.trunc(b.ashr(groups, I64(63)), I32), 16), BYTES)  # no number of groups is negative
    end = cgutils.alloca_once(b, I64)
    b.store(values, end)
    with cgutils.for_range(b, b.lshr(groups, I64(3))) as loop:
        masks = b.load(end)
        here = b.add(masks, I64(64))
        for place in range(8):
            mask = load(b, I64, b.add(masks, I64(8 * place)))
            weights = expand(b, load(b, BYTES, here), mask, zeros)
            prefetch(b, here)
            here = b.add(here, popcount(b, mask))
            accumulate(b, totals, activations.words(b, b.add(b.shl(loop.index, I64(5)), I64(4 * place))), weights)
        b.store(here, end)
    write_rows(b, finished(b, totals, sums, scales, token_scales), out, stride, count)


def emit_tiles(
    b: Builder, tokens: int, values: Value, steps: Value, windows: Value, planes: Value, plane: Value, sums: Value,
    scales: Value, token_scales: Value, out: Value, stride: Value, order: Value,
) -> None:  # fmt: skip
    """Each step picks among 128 activations, read from the L1 cache each time: cheaper than a branch that is mispredicted."""
    activations, totals = Planes(b, planes, plane, tokens), zeroed(b, 2 * tokens)
    with cgutils.for_range(b, steps) as loop:
        window = b.zext(load(b, I16, b.add(windows, b.shl(loop.index, I64(1)))), I64)
        here = b.add(values, b.shl(loop.index, I64(7)))
        places, weights = load(b, BYTES, here), load(b, BYTES, b.add(here, I64(64)))
        low = activations.vectors(b, b.shl(window, I64(6)))
        high = activations.vectors(b, b.add(b.shl(window, I64(6)), I64(64)))
        prefetch(b, here)
        prefetch(b, b.add(here, I64(64)))
        accumulate(b, totals, [pick(b, *both) for both in zip(low, [places] * len(low), high, strict=True)], weights)
    write_ordered(b, finished(b, totals, sums, scales, token_scales), out, stride, order)


@intrinsic(prefer_literal=True)
def dense_rows(typing, tokens, values, groups, planes, plane, sums, scales, token_scales, out, stride, count):  # type: ignore
    """The block at `values` by `tokens` tokens: `count` results of each from `out` on."""
    rest = (values, groups, planes, plane, sums, scales, token_scales, out, stride, count)
    return signature(emit_dense, tokens, rest)


@intrinsic(prefer_literal=True)
def bitmask_rows(typing, tokens, values, groups, planes, plane, sums, scales, token_scales, out, stride, count):  # type: ignore
    """The block at `values` by `tokens` tokens: `count` results of each from `out` on."""
    rest = (values, groups, planes, plane, sums, scales, token_scales, out, stride, count)
    return signature(emit_bitmask, tokens, rest)


@intrinsic(prefer_literal=True)
def tile_rows(typing, tokens, values, steps, windows, planes, plane, sums, scales, token_scales, out, stride, order):  # type: ignore
    """The block at `values` by `tokens` tokens: results to the rows that `order` says."""
    rest = (values, steps, windows, planes, plane, sums, scales, token_scales, out, stride, order)
    return signature(emit_tiles, tokens, rest)


@intrinsic
def address_of(typing, array):  # type: ignore
    """The address of an array's first element."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return b.ptrtoint(context.make_array(sig.args[0])(context, b, args[0]).data, I64)

    return types.int64(array), codegen
