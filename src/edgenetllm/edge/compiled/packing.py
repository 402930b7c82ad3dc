"""Loops that bring the values of a matrix into the order of a layout: they run whenever a bundle is loaded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.cache import cached_njit

Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]
Uint16 = npt.NDArray[np.uint16]


def pack_dense(values: Int8) -> Int8:
    """(rows, columns) -> (blocks, groups of 4 columns, 16 rows, 4 columns), padded by zeros."""
    rows, columns = values.shape
    blocks, groups = -(-rows // 16), -(-columns // 4)
    if (blocks * 16, groups * 4) != values.shape:
        padded = np.zeros((blocks * 16, groups * 4), np.int8)
        padded[:rows, :columns] = values
        values = padded
    words = values.view(np.int32).reshape(blocks, 16, groups)  # four columns are one word
    return np.ascontiguousarray(words.transpose(0, 2, 1)).view(np.int8).reshape(blocks, groups, 16, 4)


@cached_njit()
def pack_bitmask(vectors: Int8) -> tuple[Int64, Uint8]:
    """(blocks, groups, 64) -> starts (blocks + 1,) and, for each eight vectors, eight 64-bit masks and the non-zero bytes."""
    blocks, groups, width = vectors.shape
    chunks = (groups + 7) >> 3
    starts = np.zeros(blocks + 1, np.int64)
    data = np.zeros(blocks * chunks * (64 + 8 * width) + width, np.uint8)
    end = 0
    for block in range(blocks):
        starts[block] = end
        for group in range(8 * chunks):
            if group & 7 == 0:
                masks = end
                end += 64
            if group < groups:
                for place in range(width):
                    value = vectors[block, group, place]
                    data[end] = np.uint8(value)  # overwritten by the next one if zero
                    filled = value != 0
                    end += filled
                    data[masks + ((group & 7) << 3) + (place >> 3)] |= np.uint8(filled << (place & 7))
    starts[blocks] = end
    return starts, data[:end].copy()


@cached_njit()
def pack_tiles(values: Int8, order: Int64) -> tuple[Uint16, Int64, Uint8]:
    """(rows, columns) -> window of each step, starts (blocks + 1,), and the steps: 64 places in the window and 64 values.

    Window w sees the columns 64 w to 64 w + 127 and is left when all rows have used up their values of its first 64
    columns. A step takes up to four values of each of 16 rows, first columns first: no schedule has fewer steps, as whatever
    a step can take in an earlier window it can take in a later one, as long as nothing is left behind.
    """
    rows, columns = values.shape
    blocks, windows = (rows + 15) // 16, (columns + 63) // 64
    steps = np.zeros((blocks, windows), np.int64)
    starts = np.zeros(blocks + 1, np.int64)
    waiting = np.zeros((16, windows + 1), np.int64)  # values of each 64 columns not yet taken
    for block in range(blocks):
        waiting[:] = 0
        for lane in range(min(16, rows - 16 * block)):
            row = values[order[16 * block + lane]]
            for column in range(columns):
                waiting[lane, column >> 6] += row[column] != 0
        total = 0
        for window in range(windows):
            count = (waiting[:, window].max() + 3) >> 2
            for lane in range(16):
                spare = 4 * count - waiting[lane, window]
                waiting[lane, window + 1] -= min(spare, waiting[lane, window + 1])
            steps[block, window] = count
            total += count
        starts[block + 1] = starts[block] + 128 * total
    data = np.zeros(starts[blocks], np.uint8)
    window_of = np.empty(starts[blocks] >> 7, np.uint16)
    for block in range(blocks):
        step = starts[block] >> 7
        for window in range(windows):
            window_of[step : step + steps[block, window]] = window
            step += steps[block, window]
        for lane in range(min(16, rows - 16 * block)):
            row = values[order[16 * block + lane]]
            step = starts[block] + 4 * lane
            column = 0
            for window in range(windows):
                limit = min(columns, 64 * window + 128)
                for _ in range(steps[block, window]):
                    slot = 0
                    while slot < 4 and column < limit:
                        value = row[column]
                        if value != 0:
                            data[step + slot] = column - 64 * window
                            data[step + slot + 64] = np.uint8(value)
                            slot += 1
                        column += 1
                    step += 128
    return window_of, starts, data
