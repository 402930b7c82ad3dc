"""A matrix as small integers: symmetric, weights only, one scale for a row or for a group of columns of a row.

Zeros stay exactly zero, and nothing else becomes zero. With int8 (-127 to 127) a weight that would round to zero becomes
1 or -1: at most a few in a thousand. With int4 that would move a fifth of all weights, so its levels are the 16 odd numbers
from -15 to 15, none of which is zero: the zeros are in the mask. Without a mask one code has to stand for zero, and -13 to
13 are left.

A scale is a bfloat16, rounded up, so that the largest weight is in range; the integers are chosen for the rounded scale.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.floats import Floats, bfloat16_above, widen
from edgenetllm.edge.quantised import QuantisedMatrix

Integers = Literal["int8", "int4"]
LARGEST: dict[Integers, int] = {"int8": 127, "int4": 15}
SHRINK = np.linspace(1.0, 0.6, 17, dtype=np.float32)  # scales that int4 tries, as fractions of the one that reaches all


def quantise(weight: Floats, values: Integers, group: int, largest: int) -> QuantisedMatrix:
    """The matrix (out, in) with `group` columns to a scale, which divides them, and integers from -largest to largest.

    int8 takes the scale that reaches the largest weight; int4 the one of `SHRINK` that leaves the least squared error.
    """
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // group, group)
    scales = scales_of(grouped, largest)
    if values == "int4":
        scales = _best_scales(grouped, scales, largest)
    integers = to_integers(grouped, scales[..., None], values, largest)
    return QuantisedMatrix(integers.reshape(rows, columns), scales)


def scales_of(grouped: Floats, largest: int) -> Floats:
    """The scales (...) with which the integers of `grouped` (..., columns) reach the largest weight of each group."""
    scales = np.abs(grouped).max(axis=-1) / np.float32(largest)
    smallest = np.uint32(1 << 16).view(
        np.float32
    )  # the least bfloat16, for a group of weights near the end of the range
    scales = np.where(scales > 0, np.maximum(scales, smallest), np.float32(1))
    return widen(bfloat16_above(scales), "BF16")


def to_integers(weight: Floats, scale: Floats, values: Integers, largest: int) -> npt.NDArray[np.int8]:
    """The nearest level of each weight, never zero but for a zero."""
    ratio = weight / scale
    if values == "int8":
        level = np.rint(ratio)
        level = np.where(level == 0, np.sign(weight), level)
    else:
        level = np.sign(weight) * (2 * np.floor(np.abs(ratio) / 2) + 1)
    return np.clip(level, -largest, largest).astype(np.int8)


def _best_scales(grouped: Floats, reaching: Floats, largest: int) -> Floats:
    best, least = reaching, np.full(reaching.shape, np.inf, np.float32)
    for factor in SHRINK:
        scales = widen(bfloat16_above(reaching * factor), "BF16")
        error = grouped - to_integers(grouped, scales[..., None], "int4", largest) * scales[..., None]
        squares = np.square(error).sum(axis=-1)
        best, least = np.where(squares < least, scales, best), np.minimum(squares, least)
    return best


def group_size(columns: int, group: int | None) -> int:
    """Columns to a scale: the least divisor of `columns` that is not less than `group`; all of them for None."""
    if group is None or group >= columns:
        return columns
    return next(size for size in range(group, columns + 1) if columns % size == 0)
