"""The same products in plain numba, for any processor: equal to the vector code bit for bit."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.layouts import Field, Layout

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]

DENSE, BITMASK = int(Layout.DENSE), int(Layout.BITMASK)
LAYOUT, ROWS, COLUMNS = int(Field.LAYOUT), int(Field.ROWS), int(Field.COLUMNS)
BLOCKS, GROUPS = int(Field.BLOCKS), int(Field.GROUPS)
VALUES, STARTS, COUNTS = int(Field.VALUES), int(Field.STARTS), int(Field.COUNTS)
SCALES, ORDER = int(Field.SCALES), int(Field.ORDER)


@numba.njit(nogil=True)
def multiply_portable(
    arena: Uint8, info: Int64, offset: int, planes: Uint8, scales: Float32, out: Float32, m: int
) -> None:
    """The int8 layouts: the activations as they were rounded, the sums in 64-bit integers."""
    rows, columns, groups, layout = info[ROWS], info[COLUMNS], info[GROUPS], info[LAYOUT]
    data = arena[offset:]
    values = data[info[VALUES] :]
    starts = data[info[STARTS] :][: 8 * info[BLOCKS]].view(np.int64)
    row_scales = data[info[SCALES] :][: 64 * info[BLOCKS]].view(np.float32)
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
            add_tiles(values[starts[block] :].view(np.int8), data[info[COUNTS] + groups * block :], groups, x, sums)
        for lane in range(min(16, rows - 16 * block)):
            place = 16 * block + lane
            row = place if layout <= BITMASK else order[place]
            for token in range(m):
                out[token, row] = np.float64(sums[token, lane]) * (
                    np.float64(row_scales[place]) * np.float64(scales[token])
                )


@numba.njit(nogil=True)
def add_dense(values, groups, x, sums):  # type: ignore
    for token in range(len(x)):
        for group in range(groups):
            for lane in range(16):
                for place in range(4):
                    sums[token, lane] += values[64 * group + 4 * lane + place] * x[token, 4 * group + place]


@numba.njit(nogil=True)
def add_bitmask(values, groups, x, sums):  # type: ignore
    masks = values[: 8 * groups].view(np.uint64)
    end = 8 * groups
    for group in range(groups):
        mask = masks[group]
        for place in range(64):
            if (mask >> np.uint64(place)) & np.uint64(1):
                for token in range(len(x)):
                    sums[token, place >> 2] += np.int8(values[end]) * x[token, 4 * group + (place & 3)]
                end += 1


@numba.njit(nogil=True)
def add_tiles(values, counts, windows, x, sums):  # type: ignore
    step = 0
    for window in range(windows):
        for _ in range(counts[window]):
            for place in range(64):
                column = np.int64(values[step + place])
                column += 64 * (window + (((column >> 6) ^ window) & 1)) - (column & 64)
                for token in range(len(x)):
                    sums[token, place >> 2] += values[step + 64 + place] * x[token, column]
            step += 128


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
