"""A matrix on disk: which weights are not zero (`positions.py`), and their values (`floats.py`, `quantise.py`), packed.

A form is a type of values and a mask. At sparsity s a weight costs (1 - s)·b bits for values of b bits, and 1 bit for
`bitmask` or about (1 - s)·5 for `delta`; with `none` the zeros are stored as well, and it costs b bits. At s = 0.4 that is
10.6 bits for bitmask and fp16, 5.8 for bitmask and int8, and 8 for dense int8. `auto` takes the mask with the fewest bytes,
matrix by matrix.

Layout, vectors in row-major order: `mask` or `deltas`, uint8; `values`, the non-zeros, or with `none` all weights; of
integers also `scales`, bfloat16 (rows, groups). Integers of 4 bits are stored as (value + 15) / 2, two in a byte (see
`positions.pack_halves`); without a mask 0 stands for zero. Quantised matrices are stored as (out, in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.floats import Floats, is_finite, narrow, widen
from edgenetllm.edge.positions import (
    Mask,
    bits_bytes,
    check_bits,
    check_deltas,
    deltas_bytes,
    pack_bits,
    pack_deltas,
    pack_halves,
    spread_bits,
    spread_deltas,
    unpack_halves,
)
from edgenetllm.edge.quantise import LARGEST, Integers, group_size, quantise
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.edge.tensors_file import Stored
from edgenetllm.errors import UserError

Values = Literal["fp32", "fp16", "bf16", "int8", "int4"]
MaskForm = Literal["bitmask", "delta", "none"]
TYPES: dict[str, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8", "int4": "I4"}
INTEGERS: dict[str, Integers] = {"I8": "int8", "I4": "int4"}
BITS: dict[str, int] = {"F32": 32, "F16": 16, "BF16": 16, "I8": 8, "I4": 4}
ANY_LENGTH = (-1,)  # of a part whose length the manifest does not say
Matrix = npt.NDArray[np.floating[Any]] | QuantisedMatrix


@dataclass(frozen=True)
class Form:
    """The form of one matrix: `dtype` is F32, F16, BF16, I8 or I4; `group` columns have a scale (None for floats)."""

    dtype: str
    mask: MaskForm
    group: int | None = None


def form_of(weight: Matrix, values: Values, mask: MaskForm | Literal["auto"], group: int | None) -> Form:
    """The form in which `encode` stores a matrix (out, in), or an array of other shape, which is never quantised."""
    dtype = TYPES[values]
    integer = dtype in INTEGERS and len(weight.shape) == 2
    dtype = dtype if integer or dtype not in INTEGERS else "F16"
    chosen = smallest_mask(nonzeros_of(weight), BITS[dtype]) if mask == "auto" else mask
    if isinstance(weight, QuantisedMatrix):
        return Form(dtype, chosen, weight.shape[1] // weight.scales.shape[1])
    return Form(dtype, chosen, group_size(weight.shape[1], group) if integer else None)


def nonzeros_of(weight: Matrix) -> Mask:
    """Where a matrix is not zero, (numel,)."""
    return (weight.values if isinstance(weight, QuantisedMatrix) else weight).reshape(-1) != 0


def smallest_mask(nonzero: Mask, bits: int) -> MaskForm:
    """The mask with the fewest bytes for values of so many bits."""
    sizes = mask_bytes(nonzero)
    count = int(nonzero.sum())
    totals = {mask: size + bits * (nonzero.size if mask == "none" else count) / 8 for mask, size in sizes.items()}
    return min(totals, key=lambda mask: totals[mask])


def mask_bytes(nonzero: Mask) -> dict[MaskForm, int]:
    """Bytes that each mask itself takes."""
    return {"bitmask": bits_bytes(nonzero.size), "delta": deltas_bytes(nonzero), "none": 0}


def largest_integer(form: Form, zeros: int) -> int:
    """The largest integer of a form: 127, 15, or 13 where one code of 4 bits stands for zero."""
    return 13 if form.dtype == "I4" and form.mask == "none" and zeros else LARGEST[INTEGERS[form.dtype]]


def encode(weight: Matrix, form: Form, name: str = "weight") -> dict[str, Stored]:
    """The parts of a matrix in a file.

    The zeros of `weight` are exactly the zeros of what `decode` returns: a non-zero too small for its type becomes the
    smallest number of its sign. Raises UserError, naming the tensor, for NaN, infinity and overflow, and for a
    QuantisedMatrix whose integers are not those of the form.
    """
    nonzero = nonzeros_of(weight)
    parts: dict[str, Stored] = {}
    # The values of all weights, and scales.
    if form.dtype in INTEGERS:
        matrix = _integers(weight, form, int(nonzero.size - nonzero.sum()), name)
        values: npt.NDArray[Any] = matrix.values.reshape(-1)
        parts["scales"] = ("BF16", narrow(matrix.scales, "BF16", name))
        _check_scales(parts["scales"][1], largest_integer(form, int(nonzero.size - nonzero.sum())), name)
    else:
        assert isinstance(weight, np.ndarray)
        values = narrow(weight.reshape(-1), form.dtype, name, keep_nonzero=True)
    # The mask, and the values that it leaves.
    if form.mask == "bitmask":
        parts["mask"] = ("U8", pack_bits(nonzero))
    elif form.mask == "delta":
        parts["deltas"] = ("U8", pack_deltas(nonzero))
    kept = values if form.mask == "none" else values[nonzero]
    parts["values"] = ("U8", _pack4(kept)) if form.dtype == "I4" else (form.dtype, kept)
    return parts


def _integers(weight: Matrix, form: Form, zeros: int, name: str) -> QuantisedMatrix:
    """The matrix quantised, if it is not, in integers of the form."""
    largest = largest_integer(form, zeros)
    if not isinstance(weight, QuantisedMatrix):
        assert form.group is not None
        weight = quantise(narrow(weight, "F32", name), INTEGERS[form.dtype], form.group, largest)
    _check_range(weight.values, largest, name)
    if form.dtype == "I4" and bool(((weight.values & 1 == 0) & (weight.values != 0)).any()):
        raise UserError(f"{name}: an integer of 4 bits is even")
    return weight


def expected_parts(form: Form, shape: tuple[int, ...], nonzeros: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Part -> its type and shape, of a matrix of `shape` (out, in); the length of `deltas` is not known: ANY_LENGTH."""
    numel = int(np.prod(shape, dtype=object))
    stored = numel if form.mask == "none" else nonzeros
    parts: dict[str, tuple[str, tuple[int, ...]]] = {}
    if form.mask == "bitmask":
        parts["mask"] = ("U8", (bits_bytes(numel),))
    elif form.mask == "delta":
        parts["deltas"] = ("U8", ANY_LENGTH)
    if form.group is not None:
        parts["scales"] = ("BF16", (shape[0], shape[1] // form.group))
    parts["values"] = ("U8", (-(-stored // 2),)) if form.dtype == "I4" else (form.dtype, (stored,))
    return parts


def decode(
    parts: Mapping[str, Stored], form: Form, shape: tuple[int, ...], zeros: int, name: str = "weight"
) -> Floats | QuantisedMatrix:
    """The matrix of `shape` (out, in) that `encode` was given, of which `zeros` weights are zero.

    Everything is checked before the dense matrix is allocated. Raises UserError, naming the tensor, for parts of other
    types or shapes than `expected_parts` says, for a mask that does not mark what is stored, and for values and scales that
    the form does not have: zero where the mask says otherwise, NaN, infinity.
    """
    numel = int(np.prod(shape, dtype=object))
    nonzeros = numel - zeros
    _check_parts(parts, expected_parts(form, shape, nonzeros), name)
    # Check mask and values.
    if form.mask == "bitmask":
        check_bits(parts["mask"][1], numel, nonzeros, name)
    elif form.mask == "delta":
        check_deltas(parts["deltas"][1], numel, nonzeros, name)
    stored = parts["values"][1]
    if form.dtype == "I4":
        stored = _unpack4(stored, numel if form.mask == "none" else nonzeros, form, zeros, name)
    _check_values(stored, form, nonzeros, largest_integer(form, zeros) if form.dtype in INTEGERS else 0, name)
    if form.dtype in INTEGERS:
        scales = parts["scales"][1]
        _check_scales(scales, largest_integer(form, zeros), name)
        return QuantisedMatrix(_spread(parts, stored, form, numel).reshape(shape), widen(scales, "BF16"))  # type: ignore[arg-type]
    dense = _spread(parts, stored, form, numel).reshape(shape)
    return dense if form.dtype == "F32" else widen(dense, form.dtype)


def _check_parts(parts: Mapping[str, Stored], expected: Mapping[str, tuple[str, tuple[int, ...]]], name: str) -> None:
    if set(parts) != set(expected):
        raise UserError(f"{name}: a tensor of this form has parts {sorted(expected)}, not {sorted(parts)}")
    for part, (dtype, shape) in expected.items():
        actual = (parts[part][0], parts[part][1].shape)
        if actual != (dtype, actual[1][:1] if shape == ANY_LENGTH else shape):
            raise UserError(f"{name}.{part} is {actual}, but the manifest says {(dtype, shape)}")


def _check_values(stored: npt.NDArray[Any], form: Form, nonzeros: int, largest: int, name: str) -> None:
    """Raises UserError for values that the form does not have, and unless `nonzeros` of them are not zero."""
    if form.dtype in INTEGERS:
        _check_range(stored, largest, name)
    elif not is_finite(stored, form.dtype):
        raise UserError(f"{name}: a stored value is NaN or infinite")
    bits = stored if form.dtype in INTEGERS else stored.view(f"u{stored.itemsize}") << 1  # without the sign
    actual = int(np.count_nonzero(bits != 0))
    if actual != nonzeros:
        reason = f"{stored.size - actual} stored values are zero"
        raise UserError(f"{name}: {reason}, but the manifest says that {nonzeros} of {stored.size} are not")


def _check_range(integers: npt.NDArray[np.int8], largest: int, name: str) -> None:
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    if low < -largest or high > largest:
        raise UserError(f"{name}: integers from {low} to {high}, but this form has -{largest} to {largest}")


def _check_scales(scales: npt.NDArray[np.uint16], largest: int, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        widened = widen(scales, "BF16")
        good = (widened > 0) & np.isfinite(widened * np.float32(largest))
    if not good.all():
        raise UserError(f"{name}: a scale is not positive and finite, or too large")


def _spread(parts: Mapping[str, Stored], stored: npt.NDArray[Any], form: Form, numel: int) -> npt.NDArray[Any]:
    """All weights as they are stored, (numel,), in memory of its own."""
    if form.mask == "none":
        return stored.copy()
    unsigned = f"u{stored.itemsize}"
    dense = np.zeros(numel, stored.dtype)
    if form.mask == "bitmask":
        spread_bits(parts["mask"][1], np.append(stored.view(unsigned), [0]).astype(unsigned), dense.view(unsigned))
    else:
        spread_deltas(parts["deltas"][1], stored.view(unsigned), dense.view(unsigned))
    return dense


def _pack4(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    codes = np.where(values == 0, 0, (values + 15) >> 1)
    return pack_halves(codes.astype(np.uint8))


def _unpack4(packed: npt.NDArray[np.uint8], count: int, form: Form, zeros: int, name: str) -> npt.NDArray[np.int8]:
    if count % 2 and int(packed[-1]) & 15:
        raise UserError(f"{name}: the padding of the values is not zero")
    codes = unpack_halves(packed, count)
    levels = (codes << 1).view(np.int8)
    levels -= 15
    if form.mask == "none" and zeros:
        levels *= codes != 0
    return levels
