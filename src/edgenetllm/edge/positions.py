"""Positions of the non-zeros of a matrix on disk: one bit per weight, or the gaps between them in half bytes.

`bitmask`: weight k of the flattened row-major matrix is bit 7 - k % 8 of byte k // 8, the order of `numpy.packbits`; the
unused low bits of the last byte are 0. It costs 1 bit per weight.

`delta`: a stream of half bytes, the high one of a byte first. A half byte of 0 to 14 means that so many zeros and then a
non-zero follow; 15 means 15 zeros. The zeros after the last non-zero are there too, as far as they fill whole 15s, so that
a short stream never stands for a large matrix. An unused last half byte is 0. With a fraction d of non-zeros it costs
4 d / (1 - (1 - d)^15) bits per weight: 0.37 at 95 % zeros, 0.50 at 90 %, 1.07 at 75 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.cache import cached_njit
from edgenetllm.errors import UserError
from edgenetllm.tasks.compiled import Compiler

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
LONGEST = 15  # zeros that one half byte stands for

njit = Compiler(Path(__file__).parent, ("positions",))


def pack_bits(nonzero: Mask) -> Bytes:
    return np.packbits(nonzero)


def bits_bytes(numel: int) -> int:
    """Bytes of a bitmask."""
    return -(-numel // 8)


def pack_deltas(nonzero: Mask) -> Bytes:
    gaps, rest = _gaps(nonzero)
    escapes = gaps // LONGEST
    stream = np.full(int((escapes + 1).sum()) + rest // LONGEST, LONGEST, np.uint8)
    stream[np.cumsum(escapes + 1) - 1] = gaps % LONGEST
    return pack_halves(stream)


def deltas_bytes(nonzero: Mask) -> int:
    """Bytes of the stream that `pack_deltas` makes."""
    gaps, rest = _gaps(nonzero)
    return -(-(int((gaps // LONGEST + 1).sum()) + rest // LONGEST) // 2)


def _gaps(nonzero: Mask) -> tuple[npt.NDArray[np.int64], int]:
    """Numbers of zeros before each non-zero, and after the last one."""
    at = np.flatnonzero(nonzero)
    return np.diff(at, prepend=-1) - 1, nonzero.size - (int(at[-1]) + 1 if at.size else 0)


def pack_halves(halves: Bytes) -> Bytes:
    """Numbers from 0 to 15, two in a byte, the first one high; an unused last half is 0."""
    even = np.append(halves, np.uint8(0)) if halves.size % 2 else halves
    return np.bitwise_or(even[0::2] << np.uint8(4), even[1::2])


def unpack_halves(packed: Bytes, count: int) -> Bytes:
    """The first `count` numbers of `pack_halves`."""
    pairs = packed.astype("<u2")
    lower = (pairs & 15) << 8
    pairs >>= 4
    pairs |= lower
    return pairs.view(np.uint8)[:count]


def check_bits(mask: Bytes, numel: int, nonzeros: int, name: str) -> None:
    """Raises UserError unless a mask of `bits_bytes(numel)` bytes marks `nonzeros` weights."""
    if numel % 8 and int(mask[-1]) & (0xFF >> numel % 8):
        raise UserError(f"{name}: the padding bits of the mask are not zero")
    ones = int(np.bitwise_count(mask).sum(dtype=np.int64))
    if ones != nonzeros:
        raise UserError(f"{name}: the mask marks {ones} non-zeros but {nonzeros} values are stored")


def check_deltas(stream: Bytes, numel: int, nonzeros: int, name: str) -> None:
    """Raises UserError unless a stream marks `nonzeros` of `numel` weights."""
    marked, covered = measure(stream)
    if marked == nonzeros + 1 and stream[-1] & 15 == 0:  # the unused last half
        marked, covered = marked - 1, covered - 1
    if marked != nonzeros:
        raise UserError(f"{name}: the deltas mark {marked} non-zeros but {nonzeros} values are stored")
    if not 0 <= numel - covered < LONGEST:
        raise UserError(f"{name}: the deltas are of {covered} weights, not of {numel}")


@cached_njit()
def measure(stream: Bytes) -> tuple[int, int]:
    """Non-zeros that a stream of deltas marks, and weights that it reaches over."""
    marked = covered = 0
    for byte in stream:
        for shift in (4, 0):
            half = int((np.int64(byte) >> shift) & 15)
            literal = half != 15
            marked += literal
            covered += half + literal
    return marked, covered


@cached_njit(error_model="numpy")
def spread_bits(mask: Bytes, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Put `values` where the bits are set; all unsigned integers, `values` with one more at its end, `out` of zeros."""
    taken, one = np.uintp(0), np.uintp(1)  # unsigned: numba would ask of a signed index whether it counts from the end
    at = np.uintp(0)
    whole = np.uintp(out.size // 8 * 8)
    while at < whole:
        bits = np.uintp(mask[at >> np.uintp(3)])
        if bits:
            for k in range(8):
                bit = (bits >> np.uintp(7 - k)) & one
                out[at + np.uintp(k)] = values[taken] * out.dtype.type(bit)
                taken += bit
        at += np.uintp(8)
    while at < np.uintp(out.size):
        bit = (np.uintp(mask[at >> np.uintp(3)]) >> (np.uintp(7) - (at & np.uintp(7)))) & one
        out[at] = values[taken] * out.dtype.type(bit)
        taken += bit
        at += one


@cached_njit()
def spread_deltas(stream: Bytes, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Put `values` where a stream that was checked marks a non-zero; `out` holds zeros."""
    at = taken = 0
    for byte in stream:
        for shift in (4, 0):
            half = int((np.int64(byte) >> shift) & 15)
            if half == 15:
                at += 15
            elif taken < values.size:
                at += half
                out[at] = values[taken]
                at += 1
                taken += 1
