"""Floating-point numbers on disk: float32, float16, and bfloat16, which numpy does not know, as the bits of a uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError

Floats = npt.NDArray[np.float32]
STORED: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all of these bits set: infinity or NaN
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def narrow(values: npt.NDArray[Any], dtype: str, name: str, keep_nonzero: bool = False) -> npt.NDArray[Any]:
    """A copy of floating-point `values` rounded to `dtype` (F32, F16, BF16), as it is stored.

    With `keep_nonzero`, a value that would round to zero becomes the smallest number of its sign. Raises UserError, naming
    the tensor, for NaN, infinity and overflow.
    """
    if not np.isfinite(values).all():
        raise UserError(f"{name}: contains NaN or infinity")
    with np.errstate(over="ignore", under="ignore"):
        exact = np.array(values, np.float32, order="C")  # not of fewer dimensions, as ascontiguousarray has it
        stored = _bfloat16(exact) if dtype == "BF16" else exact.astype(STORED[dtype])
    if not is_finite(stored, dtype):
        largest = float(np.abs(values).max())
        raise UserError(f"{name}: {largest:.4g} overflows {NAMES[dtype]}; type export.values=bf16 or fp32")
    if keep_nonzero:
        bits = stored.view(f"u{stored.itemsize}")
        sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
        vanished = ((bits & ~sign) == 0) & (values != 0)
        bits[vanished] = np.where(values[vanished] < 0, sign | bits.dtype.type(1), bits.dtype.type(1))
    return stored


def is_finite(stored: npt.NDArray[Any], dtype: str) -> bool:
    """True where no stored number is NaN or infinite."""
    unsigned = np.dtype(f"u{stored.itemsize}").type
    exponent = unsigned(EXPONENTS[dtype])
    return not ((stored.view(unsigned) & exponent) == exponent).any()


def widen(stored: npt.NDArray[Any], dtype: str) -> Floats:
    """The float32 numbers that stored ones, all finite, stand for; always a copy."""
    if dtype == "F32":
        return stored.astype(np.float32)
    bits = stored.view(np.uint16).astype(np.uint32)
    if dtype == "BF16":
        bits <<= 16
        return bits.view(np.float32)
    # float16: the exponent is moved to its place and then corrected by a multiplication, subnormal numbers as well. This is
    # ten times faster than numpy's own conversion.
    sign = bits & 0x8000
    sign <<= 16
    bits &= 0x7FFF
    bits <<= 13
    bits |= sign
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def bfloat16_above(values: Floats) -> npt.NDArray[np.uint16]:
    """The least bfloat16 that is not less, of numbers that are positive and finite."""
    return ((values.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)


def _bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
