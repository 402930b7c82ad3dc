"""Products of packed matrices by a few tokens, to be called from compiled code."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.cache import cached_njit
from edgenetllm.edge.compiled.intrinsics import bitmask_rows, dense_rows, tile_rows
from edgenetllm.edge.compiled.layouts import Field, Layout
from edgenetllm.edge.compiled.portable import multiply_bf16, multiply_portable
from edgenetllm.edge.compiled.vectors import address_of

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]

DENSE, BITMASK, TILES, BF16 = int(Layout.DENSE), int(Layout.BITMASK), int(Layout.TILES), int(Layout.BF16)
LAYOUT, ROWS, BLOCKS = int(Field.LAYOUT), int(Field.ROWS), int(Field.BLOCKS)
WINDOWS, VALUES, STARTS = int(Field.WINDOWS), int(Field.VALUES), int(Field.STARTS)
IN_L2 = 2**18  # bytes of weights


def plane_bytes(tokens: int, columns: int) -> int:
    """Bytes of `planes` for so many tokens: (groups of 4, windows + 1, 4 tokens, 2 planes, 64 columns).

    A window of tiles reaches into the next one, even after the last.
    """
    return -(-tokens // 4) * (-(-columns // 64) + 1) * 512


@cached_njit()
def quantise(x: Float32, planes: Uint8, scales: Float32, m: int) -> None:
    """Write the first `m` rows of `x` (tokens, columns) as 16-bit integers from -32767 to 32767 and a scale for each token.

    `planes` (at least plane_bytes(m, columns), from a cache line on) gets the high and the low bytes of 32768 + the integer.
    A token with a value that is not finite gets a scale that is not, so that its products are not finite either.
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
        windows = (columns + 63) >> 6
        start = (token >> 2) * (windows + 1) * 512 + (token & 3) * 128
        for window in range(windows):
            first = 64 * window
            width = min(64, columns - first)
            high = planes[start + 512 * window :][:64]
            low = planes[start + 512 * window + 64 :][:64]
            for place in range(width):
                whole = np.int32(row[first + place] * inverse + np.float32(32768.5))
                high[place] = np.uint8(whole >> 8)
                low[place] = np.uint8(whole & 255)


@cached_njit()
def multiply(
    arena: Uint8,
    info: Int64,
    offset: int,
    x: Float32,
    planes: Uint8,
    scales: Float32,
    out: Float32,
    m: int,
    vector: bool,
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
    """The int8 layouts, four tokens at a time.

    Up to four tokens are multiplied by the whole matrix in one go. Of more, 16 at a time (their planes fit the L1 cache) are
    multiplied by as many blocks as the L2 cache holds, so that these are read from memory once for 16 tokens.
    """
    layout, rows, windows, stride = info[LAYOUT], info[ROWS], info[WINDOWS], 4 * out.shape[1]
    cached = info[BLOCKS] if m <= 4 else max(1, info[BLOCKS] * IN_L2 // (info[STARTS] - info[VALUES]))
    for start in range(0, m, 16):
        block = address_of(arena) + offset + info[VALUES]
        for number in range(0, info[BLOCKS], cached):
            blocks = min(cached, info[BLOCKS] - number)
            end = block
            for first in range(start, min(m, start + 16), 4):
                tokens = min(4, m - first)
                x = address_of(planes) + (first >> 2) * (windows + 1) * 512
                s = address_of(scales) + 4 * first
                y = address_of(out) + stride * first
                if layout == TILES and tokens == 1:
                    end = tile_rows(1, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == TILES and tokens == 2:
                    end = tile_rows(2, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == TILES and tokens == 3:
                    end = tile_rows(3, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == TILES and tokens == 4:
                    end = tile_rows(4, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == DENSE and tokens == 1:
                    end = dense_rows(1, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == DENSE and tokens == 2:
                    end = dense_rows(2, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == DENSE and tokens == 3:
                    end = dense_rows(3, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == DENSE and tokens == 4:
                    end = dense_rows(4, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == BITMASK and tokens == 1:
                    end = bitmask_rows(1, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == BITMASK and tokens == 2:
                    end = bitmask_rows(2, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == BITMASK and tokens == 3:
                    end = bitmask_rows(3, block, number, blocks, rows, windows, x, s, y, stride)
                elif layout == BITMASK and tokens == 4:
                    end = bitmask_rows(4, block, number, blocks, rows, windows, x, s, y, stride)
            block = end
