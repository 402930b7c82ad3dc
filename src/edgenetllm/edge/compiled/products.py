"""Products of packed matrices by a few tokens, to be called from compiled code."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.cache import cached_njit
from edgenetllm.edge.compiled.intrinsics import address_of, bitmask_rows, dense_rows, tile_rows
from edgenetllm.edge.compiled.layouts import Field, Layout
from edgenetllm.edge.compiled.portable import multiply_bf16, multiply_portable

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]

DENSE, BITMASK, TILES, BF16 = int(Layout.DENSE), int(Layout.BITMASK), int(Layout.TILES), int(Layout.BF16)
LAYOUT, ROWS, COLUMNS = int(Field.LAYOUT), int(Field.ROWS), int(Field.COLUMNS)
BLOCKS, GROUPS = int(Field.BLOCKS), int(Field.GROUPS)
VALUES, STARTS, WINDOWS = int(Field.VALUES), int(Field.STARTS), int(Field.WINDOWS)
SCALES, SUMS, ORDER = int(Field.SCALES), int(Field.SUMS), int(Field.ORDER)


def plane_width(columns: int) -> int:
    """The last dimension of `planes` for tokens of `columns` values: a window may read 64 columns beyond the last."""
    return -(-columns // 64) * 64 + 64


@cached_njit()
def quantise(x: Float32, planes: Uint8, scales: Float32, m: int) -> None:
    """Write the first `m` rows of `x` (tokens, columns) as 16-bit integers from -32767 to 32767 and a scale for each token.

    `planes` (tokens, 2, at least plane_width(columns)) gets the high and the low bytes of 32768 + the integer. A token with a
    value that is not finite gets a scale that is not, so that its products are not finite either.
    """
    columns = x.shape[1]
    for token in range(m):
        row = x[token]
        bits = row.view(np.uint32)
        top = np.uint32(0)
        for column in range(columns):
            top = max(top, bits[column] & np.uint32(0x7FFFFFFF))  # ordered as the absolute values are, NaN above all
        largest = np.array([top], np.uint32).view(np.float32)[0]
        scales[token] = largest / np.float32(32767)
        inverse = np.float32(32767) / largest if largest > 0 else np.float32(0)
        high, low = planes[token, 0], planes[token, 1]
        for column in range(columns):
            whole = np.int32(row[column] * inverse + np.float32(32768.5))
            high[column] = np.uint8(whole >> 8)
            low[column] = np.uint8(whole & 255)


@cached_njit()
def multiply(
    arena: Uint8, info: Int64, offset: int, x: Float32, planes: Uint8, scales: Float32, out: Float32, m: int, vector: bool
) -> None:
    """`out[:m] = x[:m] @ matrix.T` for the matrix whose data are at `offset` in the arena.

    BF16 reads `x` (tokens, columns); the int8 layouts read `planes` and `scales`, which `quantise` has filled from it. All
    arrays are contiguous. `vector` may only be true where `instructions.available()` has avx512.
    """
    if info[LAYOUT] == BF16:
        multiply_bf16(arena, info, offset, x, out, m)
    elif vector:
        multiply_vector(arena, info, offset, planes, scales, out, m)
    else:
        multiply_portable(arena, info, offset, planes, scales, out, m)


@numba.njit(nogil=True)
def multiply_vector(
    arena: Uint8, info: Int64, offset: int, planes: Uint8, scales: Float32, out: Float32, m: int
) -> None:
    """The int8 layouts, four tokens at a time: a block's values are read from memory once and from the L1 cache after."""
    layout, rows, groups = info[LAYOUT], info[ROWS], info[GROUPS]
    base = address_of(arena) + offset
    plane, stride = planes.shape[2], 4 * out.shape[1]
    starts = arena[offset + info[STARTS] :][: 8 * info[BLOCKS] + 8].view(np.int64)
    for block in range(info[BLOCKS]):
        sums, row_scales = base + info[SUMS] + 64 * block, base + info[SCALES] + 64 * block
        values = base + info[VALUES] + (64 * block * groups if layout == DENSE else starts[block])
        count = min(16, rows - 16 * block)
        for first in range(0, m, 4):
            tokens = min(4, m - first)
            bytes_of = address_of(planes) + 2 * plane * first
            token_scales = address_of(scales) + 4 * first
            here = address_of(out) + stride * first
            if layout == TILES:
                steps, windows = (starts[block + 1] - starts[block]) >> 7, base + info[WINDOWS] + (starts[block] >> 6)
                order = base + info[ORDER] + 64 * block
                if tokens == 4:
                    tile_rows(4, values, steps, windows, bytes_of, plane, sums, row_scales, token_scales, here, stride, order)
                elif tokens == 3:
                    tile_rows(3, values, steps, windows, bytes_of, plane, sums, row_scales, token_scales, here, stride, order)
                elif tokens == 2:
                    tile_rows(2, values, steps, windows, bytes_of, plane, sums, row_scales, token_scales, here, stride, order)
                else:
                    tile_rows(1, values, steps, windows, bytes_of, plane, sums, row_scales, token_scales, here, stride, order)
                continue
            here += 64 * block
            if layout == DENSE:
                if tokens == 4:
                    dense_rows(4, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
                elif tokens == 3:
                    dense_rows(3, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
                elif tokens == 2:
                    dense_rows(2, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
                else:
                    dense_rows(1, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
            elif tokens == 4:
                bitmask_rows(4, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
            elif tokens == 3:
                bitmask_rows(3, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
            elif tokens == 2:
                bitmask_rows(2, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
            else:
                bitmask_rows(1, values, groups, bytes_of, plane, sums, row_scales, token_scales, here, stride, count)
