"""Products of a block of 16 rows as LLVM vector code, emitted for a fixed number of tokens.

Each function multiplies one block by 1 to 4 tokens and writes 16 results for each. Activations come as two byte planes,
`x = scale * (256 * high + low - 32768)`, since vpdpbusd multiplies unsigned bytes by signed ones: four products a lane, added
to its 32-bit sum. The sums are exact: (high sum - 128 * sum of the row) * 256 + low sum is an integer that float64 holds.
Addresses are int64. Nothing of AVX-512 is emitted where numba compiles for a processor without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgenetllm.edge.compiled.instructions import compiles_avx512, features

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
WINDOW = 4 * 2 * 64  # bytes of the planes of four tokens for 64 columns
HEADER = 128  # bytes of scales and row sums at the start of a block
AHEAD = 16384  # bytes
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


class Planes:
    """The byte planes of up to four tokens: (windows of 64 columns, 4 tokens, 2 planes, 64 columns) from `address` on.

    All addresses of a window differ by constants, so that they take one register.
    """

    def __init__(self, b: Builder, address: Value, tokens: int) -> None:
        self.b, self.address, self.count = b, address, 2 * tokens

    def words(self, window: Value, place: int) -> list[Value]:
        """Four bytes of each plane, from the column `place` of a window on, in all lanes."""
        start = self.b.add(self.address, self.b.mul(window, I64(WINDOW)))
        return [
            splat(self.b, load(self.b, I32, self.b.add(start, I64(64 * plane + place))), 16)
            for plane in range(self.count)
        ]

    def vectors(self, window: Value) -> tuple[list[Value], list[Value]]:
        """64 bytes of each plane, and the 64 bytes after them."""
        start = self.b.add(self.address, self.b.mul(window, I64(WINDOW)))
        places = [I64(64 * plane) for plane in range(self.count)]
        low = [load(self.b, BYTES, self.b.add(start, place)) for place in places]
        high = [load(self.b, BYTES, self.b.add(start, I64(WINDOW + place.constant))) for place in places]
        return low, high


def zeroed(b: Builder, count: int) -> list[Value]:
    """Sums in places that LLVM turns into registers."""
    places = [cgutils.alloca_once(b, LANES) for _ in range(count)]
    for place in places:
        b.store(ir.Constant(LANES, None), place)
    return places


def accumulate(b: Builder, sums: list[Value], activations: list[Value], weights: Value) -> None:
    for place, values in zip(sums, activations, strict=True):
        b.store(dot(b, b.load(place), values, weights), place)


def finished(b: Builder, sums: list[Value], block: Value, token_scales: Value) -> list[Value]:
    """The 16 results of each token: the exact sum times both scales in float64, rounded to float32."""
    row_sums = load(b, LANES, b.add(block, I64(64)))
    results = []
    for token in range(len(sums) // 2):
        high = b.sitofp(b.sub(b.load(sums[2 * token]), row_sums), DOUBLES)
        low = b.sitofp(b.load(sums[2 * token + 1]), DOUBLES)
        total = b.fadd(b.fmul(high, splat(b, F64(256.0), 16)), low)
        results.append(scaled(b, total, block, b.add(token_scales, I64(4 * token))))
    return results


def scaled(b: Builder, totals: Value, row_scales: Value, token_scale: Value) -> Value:
    """float32(total * (row scale * token scale)): the inner product is exact in float64."""
    count = totals.type.count
    single = ir.VectorType(F32, count)
    rows = b.fpext(load(b, single, row_scales), totals.type)
    token = splat(b, b.fpext(load(b, F32, token_scale), F64), count)
    return b.fptrunc(b.fmul(totals, b.fmul(rows, token)), single)


@dataclass
class Task:
    """What a product needs: addresses and numbers, all int64."""

    tokens: int  # 1 to 4, known when code is emitted
    block: Value  # address of the first block
    number: Value  # its number in the matrix
    blocks: Value  # how many to multiply
    rows: Value  # of the matrix
    windows: Value  # of 64 columns
    planes: Value  # address of the tokens' byte planes
    scales: Value  # address of the tokens' scales
    out: Value  # address of the first token's results
    stride: Value  # bytes from a token's results to the next one's


def write_rows(b: Builder, task: Task, results: list[Value], row: Value) -> None:
    """16 results of each token to the rows from `row` on, as far as the matrix has them."""
    left = splat(b, b.trunc(b.sub(task.rows, row), I32), 16)
    wanted = b.icmp_signed("<", ir.Constant(LANES, list(range(16))), left)
    kinds = [FLOATS, FLOATS.as_pointer(), I32, wanted.type]
    store = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.masked.store.v16f32.p0"
    )
    place = b.add(task.out, b.shl(row, I64(2)))
    for token, values in enumerate(results):
        address = b.add(place, b.mul(task.stride, I64(token)))
        b.call(store, [values, b.inttoptr(address, FLOATS.as_pointer()), I32(4), wanted])


def write_ordered(b: Builder, task: Task, results: list[Value], order: Value) -> None:
    """Each lane's result to the row that `order` (uint16) says, lane 0 last. A scatter instruction takes longer."""
    for lane in reversed(range(16)):
        row = b.zext(load(b, I16, b.add(order, I64(2 * lane)), 2), I64)
        place = b.add(task.out, b.shl(row, I64(2)))
        for token, values in enumerate(results):
            address = b.add(place, b.mul(task.stride, I64(token)))
            b.store(b.extract_element(values, I32(lane)), b.inttoptr(address, F32.as_pointer()), align=4)


def each_block(b: Builder, task: Task, body: Callable[[Value, Value], Value]) -> Value:
    """Run `body(address, first row)`, which returns the next block's address; the address after the last block."""
    address = cgutils.alloca_once(b, I64)
    b.store(task.block, address)
    with cgutils.for_range(b, task.blocks) as loop:
        first_row = b.shl(b.add(task.number, loop.index), I64(4))
        b.store(body(b.load(address), first_row), address)
    return b.load(address)


def emit_dense(b: Builder, task: Task) -> Value:
    def body(block: Value, row: Value) -> Value:
        activations, totals = Planes(b, task.planes, task.tokens), zeroed(b, 2 * task.tokens)
        values = b.add(block, I64(HEADER))
        with cgutils.for_range(b, task.windows) as loop:
            vectors = b.add(values, b.shl(loop.index, I64(10)))
            for place in range(16):
                weights = load(b, BYTES, b.add(vectors, I64(64 * place)))
                accumulate(b, totals, activations.words(loop.index, 4 * place), weights)
        write_rows(b, task, finished(b, totals, block, task.scales), row)
        return b.add(values, b.shl(task.windows, I64(10)))

    return each_block(b, task, body)


def emit_bitmask(b: Builder, task: Task) -> Value:
    """Eight masks and then the values of their eight vectors, again and again: one stream, which the processor prefetches."""
    zeros = b.bitcast(
        splat(b, b.trunc(b.ashr(task.windows, I64(63)), I32), 16), BYTES
    )  # no number of windows is negative

    def body(block: Value, row: Value) -> Value:
        activations, totals = Planes(b, task.planes, task.tokens), zeroed(b, 2 * task.tokens)
        end = cgutils.alloca_once(b, I64)
        b.store(b.add(block, I64(HEADER)), end)
        with cgutils.for_range(b, task.windows) as loop:
            here = b.load(end)
            for place in range(16):
                if place % 8 == 0:
                    masks, here = here, b.add(here, I64(64))
                mask = load(b, I64, b.add(masks, I64(8 * (place % 8))))
                weights = expand(b, load(b, BYTES, here), mask, zeros)
                here = b.add(here, popcount(b, mask))
                accumulate(b, totals, activations.words(loop.index, 4 * place), weights)
            b.store(here, end)
        write_rows(b, task, finished(b, totals, block, task.scales), row)
        size = b.add(b.sub(b.load(end), block), I64(63))
        return b.add(block, b.and_(size, I64(~63)))

    return each_block(b, task, body)


def emit_tiles(b: Builder, task: Task) -> Value:
    """Each step picks among 128 activations, read from the L1 cache each time: cheaper than a branch that is mispredicted.

    The window of a step is in the highest bits of its first eight places, which vpermi2b ignores.
    """

    def body(block: Value, _row: Value) -> Value:
        activations, totals = Planes(b, task.planes, task.tokens), zeroed(b, 2 * task.tokens)
        order = b.add(block, I64(HEADER))
        steps = b.zext(load(b, I32, b.add(order, I64(32)), 4), I64)
        values = b.add(order, I64(64))
        for line in (0, 64, 128) if task.tokens > 1 else ():
            prefetch(b, b.add(block, I64(line)))
        with cgutils.for_range(b, steps) as loop:
            here = b.add(values, b.shl(loop.index, I64(7)))
            places, weights = load(b, BYTES, here), load(b, BYTES, b.add(here, I64(64)))
            low, high = activations.vectors(high_bits(b, load(b, I64, here)))
            for line in (0, 64) if task.tokens > 1 else ():
                prefetch(b, b.add(here, I64(line)))
            accumulate(
                b, totals, [pick(b, *both) for both in zip(low, [places] * len(low), high, strict=True)], weights
            )
        results = finished(b, totals, block, task.scales)
        row = b.zext(load(b, I16, order, 2), I64)
        in_order = b.icmp_unsigned("!=", load(b, I32, b.add(order, I64(36)), 4), I32(0))
        with b.if_else(in_order) as (consecutive, scattered):
            with consecutive:
                write_rows(b, task, results, row)
            with scattered:
                write_ordered(b, task, results, order)
        return b.add(values, b.shl(steps, I64(7)))

    return each_block(b, task, body)


def signature(emit: Callable[[Builder, Task], Value], tokens: types.Type, rest: tuple[types.Type, ...]) -> Any:
    """The typed signature of a product and its code, empty where AVX-512 is not there."""

    def codegen(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return emit(b, Task(tokens.literal_value, *args[1:])) if compiles_avx512() else I64(0)

    return types.int64(tokens, *[types.int64] * len(rest)), codegen  # code is found by these types


@intrinsic(prefer_literal=True)
def dense_rows(typing, tokens, block, number, blocks, rows, windows, planes, scales, out, stride):  # type: ignore
    """Multiply blocks of a DENSE matrix by 1 to 4 tokens (see Task); the address after the last one."""
    return signature(emit_dense, tokens, (block, number, blocks, rows, windows, planes, scales, out, stride))


@intrinsic(prefer_literal=True)
def bitmask_rows(typing, tokens, block, number, blocks, rows, windows, planes, scales, out, stride):  # type: ignore
    """Multiply blocks of a BITMASK matrix by 1 to 4 tokens (see Task); the address after the last one."""
    return signature(emit_bitmask, tokens, (block, number, blocks, rows, windows, planes, scales, out, stride))


@intrinsic(prefer_literal=True)
def tile_rows(typing, tokens, block, number, blocks, rows, windows, planes, scales, out, stride):  # type: ignore
    """Multiply blocks of a TILES matrix by 1 to 4 tokens (see Task); the address after the last one."""
    return signature(emit_tiles, tokens, (block, number, blocks, rows, windows, planes, scales, out, stride))


def halves(b: Builder, vector: Value) -> tuple[Value, Value]:
    """The even and the odd places of a vector."""
    count = vector.type.count
    kind = ir.VectorType(I32, count // 2)
    even, odd = (ir.Constant(kind, list(range(first, count, 2))) for first in (0, 1))
    return b.shuffle_vector(vector, vector, even), b.shuffle_vector(vector, vector, odd)


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
