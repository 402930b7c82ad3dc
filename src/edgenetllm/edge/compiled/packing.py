"""Loops that bring the values of a matrix into the order of a layout: they run whenever a bundle is loaded."""

from __future__ import annotations

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
    vectors = vectors.reshape(len(vectors), -1, 64)
    starts = np.zeros(len(vectors) + 1, np.int64)
    room = header.shape[1]
    data = np.zeros(len(vectors) * (room + vectors[0].size + vectors.shape[1] * 8 + 64), np.uint8)
    fill_masked(vectors, room, starts, data)
    data[starts[:-1, None] + np.arange(room)] = header
    return starts, data[: starts[-1]]


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
def fill_masked(vectors: Int8, room: int, starts: Int64, data: Uint8) -> None:
    """Write (blocks, groups, 64) as masks and bytes that are not zero, after `room` bytes in each block, and the starts."""
    blocks, groups, width = vectors.shape
    end = 0
    for block in range(blocks):
        starts[block] = end
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


def pack_tiles(values: Int8, header: Uint8, order: Int64) -> tuple[Int64, Uint8]:
    """(rows, columns) -> starts (blocks + 1,), and for each block its header and its steps of 64 places and 64 values.

    The rows are taken in `order`. The number of steps of a block is written into its header, 32 bytes before the end.
    """
    steps = steps_of_windows(values, order)
    totals = steps.sum(axis=1)
    header = header.copy()
    header[:, -32:-28] = totals.astype(np.uint32)[:, None].view(np.uint8)
    starts = np.concatenate([[0], np.cumsum(header.shape[1] + 128 * totals)])
    data = np.zeros(starts[-1], np.uint8)
    data[starts[:-1, None] + np.arange(header.shape[1])] = header
    fill_steps(values, order, steps, starts[:-1] + header.shape[1], data)
    return starts, data


def steps_of_windows(values: Int8, order: Int64) -> Int64:
    """Steps that each block takes in each window, (blocks, windows).

    Window w sees the columns 64 w to 64 w + 127 and is left when all rows have used up their values of its first 64
    columns. A step takes up to four values of each of 16 rows, first columns first: no schedule has fewer steps, as whatever
    a step can take in an earlier window it can take in a later one, as long as nothing is left behind.
    """
    rows, columns = values.shape
    blocks, windows = -(-rows // 16), -(-columns // 64)
    filled = np.zeros((blocks * 16, windows * 64), np.bool_)
    filled[:rows, :columns] = values[order] != 0
    waiting = np.zeros((blocks, 16, windows + 1), np.int64)  # values of each 64 columns not yet taken
    waiting[:, :, :windows] = np.count_nonzero(filled.reshape(blocks, 16, windows, 64), axis=3)
    steps = np.zeros((blocks, windows), np.int64)
    for window in range(windows):
        steps[:, window] = -(-waiting[:, :, window].max(axis=1) // 4)
        spare = 4 * steps[:, window, None] - waiting[:, :, window]
        waiting[:, :, window + 1] -= np.minimum(spare, waiting[:, :, window + 1])
    return steps


@cached_njit()
def fill_steps(values: Int8, order: Int64, steps: Int64, starts: Int64, data: Uint8) -> None:
    """Write the places, windows and values of the steps of each block from its start on; `data` is zero there."""
    rows, columns = values.shape
    for block in range(len(steps)):
        for lane in range(min(16, rows - 16 * block)):
            row = order[16 * block + lane]
            step, column = starts[block] + 4 * lane, 0
            for window in range(steps.shape[1]):
                limit = min(columns, 64 * window + 128)
                for _ in range(steps[block, window]):
                    slot = 0
                    while slot < 4 and column < limit:
                        value = values[row, column]
                        if value != 0:
                            data[step + slot] = column - 64 * window
                            data[step + slot + 64] = np.uint8(value)
                            slot += 1
                        column += 1
                    step += 128
        step = starts[block]
        for window in range(steps.shape[1]):
            for _ in range(steps[block, window]):
                for place in range(8):
                    data[step + place] |= ((window >> place) & 1) << 7
                step += 128
