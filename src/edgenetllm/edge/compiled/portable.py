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
BLOCKS, GROUPS = int(Field.BLOCKS), int(Field.GROUPS)
VALUES, STARTS, WINDOWS = int(Field.VALUES), int(Field.STARTS), int(Field.WINDOWS)
SCALES, ORDER = int(Field.SCALES), int(Field.ORDER)


@numba.njit(nogil=True)
def multiply_portable(
    arena: Uint8, info: Int64, offset: int, planes: Uint8, scales: Float32, out: Float32, m: int
) -> None:
    """The int8 layouts: the activations as they were rounded, the sums in 64-bit integers."""
    rows, columns, groups, layout = info[ROWS], info[COLUMNS], info[GROUPS], info[LAYOUT]
    data = arena[offset:]
    values = data[info[VALUES] :]
    starts = data[info[STARTS] :][: 8 * info[BLOCKS] + 8].view(np.int64)
    row_scales = data[info[SCALES] :][: 64 * info[BLOCKS]].view(np.float32)
    steps = starts[info[BLOCKS]] >> 7 if layout == TILES else 0
    windows = data[info[WINDOWS] :][: 2 * steps].view(np.uint16)
    order = data[info[ORDER] :][: 64 * info[BLOCKS]].view(np.int32)
    x = np.zeros((m, planes.shape[2]), np.int64)
    for token in range(m):
        for column in range(columns):
            x[token, column] = np.int64(planes[token, 0, column]) * 256 + planes[token, 1, column] - 32768
    sums = np.zeros((m, 16), np.int64)
    for block in range(info[BLOCKS]):
        sums[:] = 0
        if layout == DENSE:
            add_dense(values[64 * groups * block :].view(np.int8), groups, x, sums)
        elif layout == BITMASK:
            add_bitmask(values[starts[block] :], groups, x, sums)
        else:
            add_tiles(values[starts[block] : starts[block + 1]].view(np.int8), windows[starts[block] >> 7 :], x, sums)
        for lane in range(min(16, rows - 16 * block)):
            place = 16 * block + lane
            row = place if layout <= BITMASK else order[place]
            for token in range(m):
                out[token, row] = np.float64(sums[token, lane]) * (np.float64(row_scales[place]) * np.float64(scales[token]))


@numba.njit(nogil=True)
def add_dense(values, groups, x, sums):  # type: ignore
    for token in range(len(x)):
        for group in range(groups):
            for lane in range(16):
                for place in range(4):
                    sums[token, lane] += values[64 * group + 4 * lane + place] * x[token, 4 * group + place]


@numba.njit(nogil=True)
def add_bitmask(values, groups, x, sums):  # type: ignore
    end = 0
    for chunk in range(groups >> 3):
        masks = values[end : end + 64].view(np.uint64)
        end += 64
        for group in range(8):
            for place in range(64):
                if (masks[group] >> np.uint64(place)) & np.uint64(1):
                    column = 32 * chunk + 4 * group + (place & 3)
                    for token in range(len(x)):
                        sums[token, place >> 2] += np.int8(values[end]) * x[token, column]
                    end += 1


@numba.njit(nogil=True)
def add_tiles(values, windows, x, sums):  # type: ignore
    for step in range(len(values) >> 7):
        for place in range(64):
            column = 64 * windows[step] + values[128 * step + place]
            for token in range(len(x)):
                sums[token, place >> 2] += values[128 * step + 64 + place] * x[token, column]


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
