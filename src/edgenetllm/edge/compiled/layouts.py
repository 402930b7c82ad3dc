"""Weight matrices in the orders in which the compiled products read them."""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.packing import pack_bitmask, pack_dense, pack_tiles
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.errors import UserError

LANES = 16  # rows of a block: 32-bit sums in a 64-byte vector
HUGE_PAGE = 2**21  # bytes
LINE = 64  # bytes of a vector and of a cache line, and columns of a window
# The sum of a byte plane is an int32, and at most 255 * 128 * columns; tiles have 8 bits for the number of a window.
MOST_COLUMNS = 65536
MOST_COLUMNS_OF_TILES = 16384
MOST_ROWS_OF_TILES = 65536  # 16 bits for the number of a row
TILES_FROM = 0.70  # fraction of zeros from which tiles are smaller and faster than the bitmask


class Layout(IntEnum):
    """The order of a packed matrix: one stream of blocks of 16 rows, each lane of a vector belonging to one row.

    A block of int8 values begins with float32 (16,) scales and int32 (16,) 128 times the sum of each row's values. Columns
    are padded by zeros to a multiple of 64, a window.

    DENSE: vectors of 16 rows x 4 columns.
    BITMASK: the same order; for each eight vectors eight 64-bit masks and then the bytes that are not zero.
    TILES: uint16 (16,) row of each lane, uint32 number of steps, uint32 1 where rows are consecutive, padding up to 64
    bytes, and the steps: 64 places and 64 values, four for each lane. A place is one of the 128 columns from a window on. The
    highest bits of the first eight places are the window, lowest bit first. As windows overlap by half, a row with few
    values waits for one with many, and as rows with equally many values share a block, there is little padding.
    BF16: vectors of 16 rows x 1 column, bfloat16 without a header: the form that the others are checked against.
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
    BLOCKS = 3  # of 16 rows, the last one padded by rows of zeros
    WINDOWS = 4  # of 64 columns (but BF16: 0)
    VALUES = 5  # offset of the first block
    STARTS = 6  # offset of int64 (blocks + 1,): where each block begins, in bytes from VALUES


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
    """`count` zero bytes that begin at a cache line: vectors that cross lines take twice as long to read.

    Where there is room for one they begin at a huge page, and the system is asked for huge pages: what lies in small ones
    by chance takes up to half as long again to read.
    """
    if count < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        room = np.zeros(count + LINE, np.uint8)
        return room[-room.ctypes.data % LINE :][:count]
    memory = mmap.mmap(-1, count + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    room = np.frombuffer(memory, np.uint8)  # keeps the memory for as long as it lives
    return room[-room.ctypes.data % HUGE_PAGE :][:count]


def pack(matrix: QuantisedMatrix, layout: Layout | None = None) -> Packed:
    """The matrix in `layout`, or in the one that suits its zeros; `UserError` where it has groups or too many columns."""
    rows, columns = matrix.shape
    if matrix.scales.shape != (rows, 1):
        raise UserError(f"the compiled engine needs one scale for each row of a matrix, not {matrix.scales.shape[1]}")
    values = np.ascontiguousarray(matrix.values)
    counts = np.count_nonzero(values, axis=1)
    if layout is None:
        layout = chosen_layout((rows, columns), int(counts.sum()))
    check_size((rows, columns), layout)
    order = np.argsort(-counts, kind="stable") if layout == Layout.TILES else np.arange(rows)
    header = block_headers(values, matrix.scales[:, 0], order)
    if layout == Layout.DENSE:
        starts, data = pack_dense(values, header)
    elif layout == Layout.BITMASK:
        starts, data = pack_bitmask(values, header)
    else:
        starts, data = pack_tiles(values, np.concatenate([header, rows_of_lanes(order)], axis=1), order)
    return _joined(layout, (rows, columns, len(header), -(-columns // LINE)), data, starts)


def pack_bf16(matrix: npt.NDArray[np.float32]) -> Packed:
    """The matrix (out, in) rounded to bfloat16 (to nearest, ties to even)."""
    rows, columns = matrix.shape
    blocks = -(-rows // LANES)
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
    halves = np.zeros((blocks * LANES, columns), np.uint16)
    halves[:rows] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    data = np.ascontiguousarray(halves.reshape(blocks, LANES, columns).transpose(0, 2, 1)).view(np.uint8).reshape(-1)
    starts = np.arange(blocks + 1, dtype=np.int64) * (2 * LANES * columns)
    return _joined(Layout.BF16, (rows, columns, blocks, 0), data, starts)


def chosen_layout(shape: tuple[int, int], filled: int) -> Layout:
    """The layout for a matrix of which `filled` weights are not zero."""
    rows, columns = shape
    density = filled / max(rows * columns, 1)
    if density <= 1 - TILES_FROM and columns <= MOST_COLUMNS_OF_TILES and rows <= MOST_ROWS_OF_TILES:
        return Layout.TILES
    return Layout.BITMASK if density < 0.85 else Layout.DENSE


def check_size(shape: tuple[int, int], layout: Layout) -> None:
    """Raise `UserError` for a matrix that `layout` does not hold."""
    rows, columns = shape
    if layout == Layout.BF16:
        raise UserError("layout bf16 holds no int8 values: use form=bf16")
    most = MOST_COLUMNS_OF_TILES if layout == Layout.TILES else MOST_COLUMNS
    if not 0 < columns <= most or rows == 0 or (layout == Layout.TILES and rows > MOST_ROWS_OF_TILES):
        raise UserError(
            f"layout {layout.name.lower()} of the compiled engine does not hold a matrix of {rows} x {columns}"
        )


def block_headers(
    values: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], order: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """(blocks, 128): float32 (16,) scales and int32 (16,) 128 times the sum of the values of the rows in `order`."""
    lanes = -(-len(order) // LANES) * LANES
    words = np.zeros((2, lanes), np.int32)
    words[0, : len(order)] = scales[order].astype(np.float32).view(np.int32)
    words[1, : len(order)] = 128 * values.sum(axis=1, dtype=np.int32)[order]
    return np.ascontiguousarray(words.reshape(2, -1, LANES).transpose(1, 0, 2)).reshape(-1, 2 * LANES).view(np.uint8)


def rows_of_lanes(order: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(blocks, 64): uint16 (16,) row of each lane, room for the number of steps, and uint32 1 where rows are consecutive.

    Lanes without a row have that of lane 0, which is written last.
    """
    blocks = -(-len(order) // LANES)
    lanes = np.zeros((blocks, 2 * LANES), np.uint16)
    lanes[:, :LANES] = order[::LANES, None]
    for block in range(blocks):
        rows = order[block * LANES : (block + 1) * LANES]
        lanes[block, : len(rows)] = rows
        whole = (
            len(rows) == LANES or rows[-1] == len(order) - 1
        )  # what is written ends after 16 rows or with the matrix
        lanes[block, 18] = whole and (np.diff(rows) == 1).all()
    return lanes.view(np.uint8)


def _joined(
    layout: Layout, shape: tuple[int, int, int, int], values: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]
) -> Packed:
    """The blocks, 64 bytes that a vector read may run into, and where each block begins."""
    end = (len(values) // LINE + 2) * LINE
    data = aligned_bytes(-(-(end + starts.nbytes) // LINE) * LINE)
    data[: len(values)] = values
    data[end : end + starts.nbytes] = starts.view(np.uint8)
    return Packed(data, np.array([layout, *shape, 0, end], np.int64))
