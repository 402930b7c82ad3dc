"""The products for any processor: equal to the vector code bit for bit, for every layout of int8 values."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.layouts import Field, Layout
from edgenetllm.edge.compiled.plain import any_rows, bf16_rows
from edgenetllm.edge.compiled.vectors import address_of, trailing_zeros

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]
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
    """The int8 layouts: each block is brought into the order of DENSE and multiplied by one token after the other."""
    windows, layout = info[WINDOWS], info[LAYOUT]
    data = arena[offset:]
    starts = data[info[STARTS] :][: 8 * info[BLOCKS] + 8].view(np.int64)
    x = signed_activations(planes, windows, m)
    unpacked = np.zeros(1024 * windows + 1, np.uint8)
    results = np.zeros(16, np.float32)
    for number in range(info[BLOCKS]):
        block = data[info[VALUES] + starts[number] : info[VALUES] + starts[number + 1]]
        order = block[128:160].view(np.uint16)
        values = address_of(block) + 128 if layout == DENSE else address_of(unpacked)
        if layout == BITMASK:
            unpack_bitmask(block[128:], unpacked[:-1])
        elif layout == TILES:
            unpack_tiles(block[192:], unpacked)
        for token in range(m):
            any_rows(
                address_of(block),
                values,
                windows,
                address_of(x[token]),
                address_of(scales[token:]),
                address_of(results),
            )
            for lane in range(min(16, info[ROWS] - 16 * number)):
                out[token, np.int64(order[lane]) if layout == TILES else 16 * number + lane] = results[lane]


@numba.njit(nogil=True)
def signed_activations(planes: Uint8, windows: int, m: int) -> Int16:
    """The int16 activations (m, columns) that the byte planes stand for."""
    x = np.empty((m, 64 * windows), np.int16)
    for token in range(m):
        for window in range(windows):
            here = planes[((token >> 2) * (windows + 1) + window) * 512 + (token & 3) * 128 :][:128]
            for place in range(64):
                x[token, 64 * window + place] = (np.int32(here[place]) << 8) + here[64 + place] - 32768
    return x


@numba.njit(nogil=True)
def unpack_bitmask(block: Uint8, values: Uint8) -> None:
    """Write the values of a block in the order of DENSE."""
    values[:] = 0
    end = 0
    for vector in range(len(values) >> 6):
        if vector & 7 == 0:
            masks = block[end : end + 64].view(np.uint64)
            end += 64
        mask = masks[vector & 7]
        while mask:
            values[np.uint64(64 * vector + trailing_zeros(mask))] = block[np.uint64(end)]  # unsigned: not from the end
            end += 1
            mask &= mask - np.uint64(1)


@numba.njit(nogil=True)
def unpack_tiles(block: Uint8, values: Uint8) -> None:
    """Write the values of a block in the order of DENSE; `values` has one place more than there are, for unused slots."""
    values[:] = 0
    nowhere = len(values) - 1
    for step in range(0, len(block), 128):
        window = np.int64(0)
        for place in range(8):
            window |= np.int64(block[step + place] >> 7) << place
        for place in range(64):
            column, value = np.int64(block[step + place] & 127), block[step + 64 + place]
            slot = 1024 * window + ((column >> 2) << 6) + (place & ~3) + (column & 3)
            values[np.uint64(slot if value != 0 else nowhere)] = value  # unsigned: no place counts from the end


@numba.njit(nogil=True)
def multiply_bf16(arena: Uint8, info: Int64, offset: int, x: Float32, out: Float32, m: int) -> None:
    """bfloat16 weights by float32 activations, summed in float32: the last bits depend on the processor."""
    rows, columns = info[ROWS], info[COLUMNS]
    values = address_of(arena) + offset + info[VALUES]
    results = np.zeros(16, np.float32)
    for number in range(info[BLOCKS]):
        for token in range(m):
            bf16_rows(values + 32 * columns * number, columns, address_of(x[token]), address_of(results))
            for lane in range(min(16, rows - 16 * number)):
                out[token, 16 * number + lane] = results[lane]
