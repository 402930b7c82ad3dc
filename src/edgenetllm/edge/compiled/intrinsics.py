"""Products of blocks of 16 rows by 1 to 4 tokens in AVX-512, as loops of LLVM vector code that numba compiles.

Numba has no vector type: each intrinsic emits its whole loop, so that sums stay in registers. Activations come as two byte
planes, `x = scale * (256 * high + low - 32768)`, since vpdpbusd multiplies unsigned bytes by signed ones: four products a
lane, added to its 32-bit sum. The sums are exact: (high sum - 128 * sum of the row) * 256 + low sum is an integer that
float64 holds. Addresses are int64. Nothing of AVX-512 is emitted where numba compiles for a processor without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgenetllm.edge.compiled.instructions import compiles_avx512
from edgenetllm.edge.compiled.vectors import (
    BYTES,
    DOUBLES,
    F32,
    F64,
    FLOATS,
    I16,
    I32,
    I64,
    LANES,
    Builder,
    Value,
    dot,
    expand,
    high_bits,
    load,
    pick,
    popcount,
    prefetch,
    scaled,
    splat,
)

WINDOW = 4 * 2 * 64  # bytes of the planes of four tokens for 64 columns
HEADER = 128  # bytes of scales and row sums at the start of a block


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


@dataclass
class Task:
    """Addresses and numbers that a product needs, all int64."""

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
