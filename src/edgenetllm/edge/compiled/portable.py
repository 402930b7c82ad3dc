"""The same products in plain numba, for any processor: equal to the vector code bit for bit."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.layouts import Field, Layout

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]

DENSE, BITMASK, TILES = int(Layout.DENSE), int(Layout.BITMASK), int(Layout.TILES)
LAYOUT, ROWS, COLUMNS = int(Field.LAYOUT), int(Field.ROWS), int(Field.COLUMNS)
BLOCKS, WINDOWS = int(Field.BLOCKS), int(Field.WINDOWS)
VALUES, STARTS = int(Field.VALUES), int(Field.STARTS)


@numba.njit(nogil=True)
def multiply_portable(
    arena: Uint8, info: Int64, offset: int, planes: Uint8, scales: Float32, out: Float32, m: int
) -> None:
    """The int8 layouts: the activations as they were rounded, the sums of each plane in 64-bit integers."""
    windows, layout = info[WINDOWS], info[LAYOUT]
    data = arena[offset:]
    starts = data[info[STARTS] :][: 8 * info[BLOCKS] + 8].view(np.int64)
    x = np.empty((m, 2, 64 * windows + 64), np.int32)
    for token in range(m):
        for window in range(windows + 1):
            here = planes[((token >> 2) * (windows + 1) + window) * 512 + (token & 3) * 128 :]
            for place in range(64):
                x[token, 0, 64 * window + place] = here[place]
                x[token, 1, 64 * window + place] = here[64 + place]
    sums = np.zeros((m, 2, 16), np.int32)
    for number in range(info[BLOCKS]):
        block = data[info[VALUES] + starts[number] : info[VALUES] + starts[number + 1]]
        row_scales, row_sums = block[:64].view(np.float32), block[64:128].view(np.int32)
        order = block[128:160].view(np.uint16)
        sums[:] = 0
        if layout == DENSE:
            add_dense(block[128:].view(np.int8), windows, x, sums)
        elif layout == BITMASK:
            add_bitmask(block[128:], windows, x, sums)
        else:
            add_tiles(block[192:].view(np.int8), x, sums)
        for lane in range(min(16, info[ROWS] - 16 * number)):
            row = np.int64(order[lane]) if layout == TILES else 16 * number + lane
            for token in range(m):
                high, low = np.float32(sums[token, 0, lane] - row_sums[lane]), np.float32(sums[token, 1, lane])
                out[token, row] = (high * np.float32(256) + low) * (row_scales[lane] * scales[token])


@numba.njit(nogil=True)
def add_dense(values, windows, x, sums):  # type: ignore
    for token in range(len(x)):
        for plane in range(2):
            for group in range(16 * windows):
                for lane in range(16):
                    for place in range(4):
                        sums[token, plane, lane] += (
                            values[64 * group + 4 * lane + place] * x[token, plane, 4 * group + place]
                        )


@numba.njit(nogil=True)
def add_bitmask(values, windows, x, sums):  # type: ignore
    end = 0
    for chunk in range(2 * windows):
        masks = values[end : end + 64].view(np.uint64)
        end += 64
        for group in range(8):
            for place in range(64):
                if (masks[group] >> np.uint64(place)) & np.uint64(1):
                    column = 32 * chunk + 4 * group + (place & 3)
                    for token in range(len(x)):
                        for plane in range(2):
                            sums[token, plane, place >> 2] += np.int8(values[end]) * x[token, plane, column]
                    end += 1


@numba.njit(nogil=True)
def add_tiles(values, x, sums):  # type: ignore
    for step in range(0, len(values), 128):
        window = 0
        for place in range(8):
            window |= ((values[step + place] >> 7) & 1) << place
        for place in range(64):
            column = 64 * window + (values[step + place] & 127)
            for token in range(len(x)):
                for plane in range(2):
                    sums[token, plane, place >> 2] += values[step + 64 + place] * x[token, plane, column]


@numba.njit(nogil=True, fastmath=True)
def multiply_bf16(arena: Uint8, info: Int64, offset: int, x: Float32, out: Float32, m: int) -> None:
    """bfloat16 weights by float32 activations."""
    rows, columns = info[ROWS], info[COLUMNS]
    values = arena[offset + info[VALUES] :][: 32 * columns * info[BLOCKS]].view(np.uint16)
    sums = np.zeros(16, np.float32)
    bits = np.zeros(16, np.uint32)
    for block in range(info[BLOCKS]):
        for token in range(m):
            sums[:] = 0
            for column in range(columns):
                start = 16 * (block * columns + column)
                for lane in range(16):
                    bits[lane] = np.uint32(values[start + lane]) << np.uint32(16)
                weights = bits.view(np.float32)
                for lane in range(16):
                    sums[lane] += weights[lane] * x[token, column]
            for lane in range(min(16, rows - 16 * block)):
                out[token, 16 * block + lane] = sums[lane]
