"""Loops that bring the values of a matrix into the order of a layout: they run whenever a bundle is loaded."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.cache import cached_njit

Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]


def pack_dense(values: Int8, header: Uint8) -> tuple[Int64, Uint8]:
    """(rows, columns) -> starts (blocks + 1,), and for each block its header and its vectors of 16 rows x 4 columns."""
    vectors = in_vectors(values)
    blocks = np.empty((len(vectors), header.shape[1] + vectors[0].size), np.uint8)
    blocks[:, : header.shape[1]] = header
    blocks[:, header.shape[1] :] = vectors.reshape(len(vectors), -1).view(np.uint8)
    return np.arange(len(blocks) + 1) * blocks.shape[1], blocks.reshape(-1)


def pack_bitmask(values: Int8, header: Uint8) -> tuple[Int64, Uint8]:
    """(rows, columns) -> starts (blocks + 1,), and for each block its header, masks and bytes that are not zero."""
    vectors = in_vectors(values)
    return masked(vectors.reshape(len(vectors), -1, 64), header)


def in_vectors(values: Int8) -> Int8:
    """(rows, columns) -> (blocks, groups of 4 columns, 16 rows, 4 columns), padded by zeros to 16 rows and 64 columns."""
    rows, columns = values.shape
    blocks, groups = -(-rows // 16), -(-columns // 64) * 16
    if (blocks * 16, groups * 4) != values.shape:
        padded = np.zeros((blocks * 16, groups * 4), np.int8)
        padded[:rows, :columns] = values
        values = padded
    words = values.view(np.int32).reshape(blocks, 16, groups)  # four columns are one word
    return np.ascontiguousarray(words.transpose(0, 2, 1)).view(np.int8).reshape(blocks, groups, 16, 4)


@cached_njit()
def masked(vectors: Int8, header: Uint8) -> tuple[Int64, Uint8]:
    """(blocks, groups, 64) -> starts and blocks: for each eight vectors eight masks and the bytes that are not zero."""
    blocks, groups, width = vectors.shape
    room = header.shape[1]
    starts = np.zeros(blocks + 1, np.int64)
    data = np.zeros(blocks * (room + groups * (8 + width) + 64) + width, np.uint8)
    end = 0
    for block in range(blocks):
        starts[block] = end
        data[end : end + room] = header[block]
        end += room
        for group in range(groups):
            if group & 7 == 0:
                masks = end
                end += 64
            for place in range(width):
                value = vectors[block, group, place]
                data[end] = np.uint8(value)  # overwritten by the next one if zero
                filled = value != 0
                end += filled
                data[masks + ((group & 7) << 3) + (place >> 3)] |= np.uint8(filled << (place & 7))
        data[end] = 0
        end = (end + 63) & ~63  # headers and masks in whole cache lines
    starts[blocks] = end
    return starts, data[:end].copy()


@cached_njit()
def pack_tiles(values: Int8, header: Uint8, order: Int64) -> tuple[Int64, Uint8]:
    """(rows, columns) -> starts (blocks + 1,), and for each block its header and its steps of 64 places and 64 values.

    Window w sees the columns 64 w to 64 w + 127 and is left when all rows have used up their values of its first 64
    columns. A step takes up to four values of each of 16 rows, first columns first: no schedule has fewer steps, as whatever
    a step can take in an earlier window it can take in a later one, as long as nothing is left behind.
    """
    blocks, windows, room = len(header), (values.shape[1] + 63) >> 6, header.shape[1]
    steps = np.zeros((blocks, windows), np.int64)
    starts = np.zeros(blocks + 1, np.int64)
    for block in range(blocks):
        count_steps(values, order[16 * block : 16 * block + 16], steps[block])
        starts[block + 1] = starts[block] + room + 128 * steps[block].sum()
    data = np.zeros(starts[blocks], np.uint8)
    for block in range(blocks):
        here = data[starts[block] : starts[block + 1]]
        here[:room] = header[block]
        here[room - 32 : room - 28].view(np.uint32)[0] = steps[block].sum()
        fill_steps(values, order[16 * block : 16 * block + 16], steps[block], here[room:])
    return starts, data


@numba.njit(nogil=True)
def count_steps(values: Int8, rows: Int64, steps: Int64) -> None:
    """Write the number of steps of each window for one block."""
    waiting = np.zeros((16, len(steps) + 1), np.int64)  # values of each 64 columns not yet taken
    for lane in range(len(rows)):
        row = values[rows[lane]]
        for window in range(len(steps)):
            for value in row[64 * window : 64 * window + 64]:
                waiting[lane, window] += value != 0
    for window in range(len(steps)):
        steps[window] = (waiting[:, window].max() + 3) >> 2
        for lane in range(len(rows)):
            spare = 4 * steps[window] - waiting[lane, window]
            waiting[lane, window + 1] -= min(spare, waiting[lane, window + 1])


@numba.njit(nogil=True)
def fill_steps(values: Int8, rows: Int64, steps: Int64, data: Uint8) -> None:
    """Write the places, windows and values of the steps of one block."""
    columns = values.shape[1]
    for lane in range(len(rows)):
        row = values[rows[lane]]
        step, column = 4 * lane, 0
        for window in range(len(steps)):
            limit = min(columns, 64 * window + 128)
            for _ in range(steps[window]):
                slot = 0
                while slot < 4 and column < limit:
                    value = row[column]
                    if value != 0:
                        data[step + slot] = column - 64 * window
                        data[step + slot + 64] = np.uint8(value)
                        slot += 1
                    column += 1
                step += 128
    step = 0
    for window in range(len(steps)):
        for _ in range(steps[window]):
            for place in range(8):
                data[step + place] |= ((window >> place) & 1) << 7
            step += 128
