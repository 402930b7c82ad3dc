"""Weight matrices in the orders in which the compiled products read them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.packing import pack_bitmask, pack_dense, pack_tiles
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.errors import UserError

LANES = 16  # rows of a block: 32-bit sums in a 64-byte vector
LINE = 64  # bytes of a vector and of a cache line
# The sum of a byte plane is an int32: 255 * 128 * columns must stay below 2**31.
MOST_COLUMNS = 65536
TILES_FROM = 0.70  # fraction of zeros from which tiles are smaller and faster than the bitmask


class Layout(IntEnum):
    """The order of a packed matrix. All but BF16 hold int8 values with a scale for each row.

    DENSE: vectors of 16 rows x 4 columns, so that each of the 16 sums belongs to one row and none is added across lanes.
    BITMASK: the same order; a 64-bit mask for each vector, and the bytes that are not zero.
    TILES: only values that are not zero, each with one byte that says which of 128 columns it belongs to. The 128 columns
    are a window that moves on by 64, so that a row with few values may wait for one with many: almost no padding.
    BF16: 16 rows x 1 column, bfloat16 without scales: the form that the others are checked against.
    """

    DENSE = 0
    BITMASK = 1
    TILES = 2
    BF16 = 3


class Field(IntEnum):
    """Places in `Packed.info`; offsets are bytes from the start of the matrix's data."""

    LAYOUT = 0
    ROWS = 1
    COLUMNS = 2
    BLOCKS = 3  # blocks of 16 rows, the last one padded by rows of zeros
    GROUPS = 4  # of columns in a block: of 4 (DENSE, BITMASK), 64 (TILES) or 1 (BF16)
    VALUES = 5  # offset
    STARTS = 6  # offset, int64 (blocks + 1,): where each block begins, in bytes from VALUES
    WINDOWS = 7  # offset, uint16 (steps,): the first column that a step sees, divided by 64 (TILES)
    SCALES = 8  # offset, float32 (blocks, 16)
    SUMS = 9  # offset, int32 (blocks, 16): 128 times the sum of a row's values
    ORDER = 10  # offset, int32 (blocks, 16): the row of the result that a lane computes (TILES)


INFO = len(Field)


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix as bytes, to be copied to a multiple of 64 in an arena that is aligned itself (`aligned_bytes`)."""

    data: npt.NDArray[np.uint8]  # (a multiple of 64,)
    info: npt.NDArray[np.int64]  # (INFO,), indexed by Field

    @property
    def layout(self) -> Layout:
        return Layout(int(self.info[Field.LAYOUT]))

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


def aligned_bytes(count: int) -> npt.NDArray[np.uint8]:
    """`count` zero bytes that begin at a cache line: vectors that cross lines take twice as long to read."""
    room = np.empty(count + LINE, np.uint8)  # not np.zeros: numpy asks for huge pages here, and not there
    room[:] = 0
    return room[-room.ctypes.data % LINE :][:count]


def pack(matrix: QuantisedMatrix, layout: Layout | None = None) -> Packed:
    """The matrix in `layout`, or in the one that suits its zeros; `UserError` where it has groups or too many columns."""
    rows, columns = matrix.shape
    if matrix.scales.shape != (rows, 1):
        raise UserError(f"the compiled engine needs one scale for each row of a matrix, not {matrix.scales.shape[1]}")
    if not 0 < columns <= MOST_COLUMNS or rows == 0:
        raise UserError(f"the compiled engine takes matrices of 1 to {MOST_COLUMNS} columns, not {rows} x {columns}")
    values = np.ascontiguousarray(matrix.values)
    counts = np.count_nonzero(values, axis=1)
    if layout is None:
        layout = chosen_layout(int(counts.sum()), rows * columns)
    order = np.argsort(-counts, kind="stable") if layout == Layout.TILES else np.arange(rows)
    blocks = -(-rows // LANES)
    sections: dict[Field, npt.NDArray[np.generic]] = {
        Field.SCALES: _by_lane(matrix.scales[order, 0].astype(np.float32), blocks),
        Field.SUMS: _by_lane((128 * values.sum(axis=1, dtype=np.int64))[order].astype(np.int32), blocks),
    }
    groups = -(-columns // 4)
    if layout == Layout.DENSE:
        sections[Field.VALUES] = pack_dense(values)
    elif layout == Layout.BITMASK:
        sections[Field.STARTS], sections[Field.VALUES] = pack_bitmask(pack_dense(values).reshape(blocks, groups, LINE))
        groups = -(-groups // 8) * 8
    elif layout == Layout.TILES:
        groups = -(-columns // LINE)
        sections[Field.WINDOWS], sections[Field.STARTS], sections[Field.VALUES] = pack_tiles(values, order)
        lanes = _by_lane(order.astype(np.int32), blocks).reshape(blocks, LANES)
        lanes[-1, rows - (blocks - 1) * LANES :] = lanes[-1, 0]  # lane 0 is written last
        sections[Field.ORDER] = lanes
    else:
        raise UserError(f"{layout.name} holds no int8 values: use pack_bf16")
    return _joined(layout, (rows, columns, blocks, groups), sections)


def pack_bf16(matrix: npt.NDArray[np.float32]) -> Packed:
    """The matrix (out, in) rounded to bfloat16 (to nearest, ties to even)."""
    rows, columns = matrix.shape
    blocks = -(-rows // LANES)
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
    halves = np.zeros((blocks * LANES, columns), np.uint16)
    halves[:rows] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    values = np.ascontiguousarray(halves.reshape(blocks, LANES, columns).transpose(0, 2, 1))
    return _joined(Layout.BF16, (rows, columns, blocks, columns), {Field.VALUES: values})


def chosen_layout(filled: int, size: int) -> Layout:
    """The layout for a matrix of `size` weights of which `filled` are not zero."""
    if filled <= (1 - TILES_FROM) * size:
        return Layout.TILES
    return Layout.BITMASK if filled < 0.85 * size else Layout.DENSE


def _by_lane(values: npt.NDArray[np.generic], blocks: int) -> npt.NDArray[np.generic]:
    padded = np.zeros(blocks * LANES, values.dtype)
    padded[: len(values)] = values
    return padded


def _joined(layout: Layout, shape: tuple[int, int, int, int], sections: dict[Field, npt.NDArray[np.generic]]) -> Packed:
    """The sections one after the other, each at a multiple of 64, and 64 bytes that a vector read may run into."""
    info = np.zeros(INFO, np.int64)
    info[: Field.VALUES] = (layout, *shape)
    end = 0
    for field, values in sections.items():
        info[field] = end
        end += -(-values.nbytes // LINE) * LINE
    data = aligned_bytes(end + LINE)
    for field, values in sections.items():
        data[info[field] :][: values.nbytes] = values.reshape(-1).view(np.uint8)
    return Packed(data, info)
