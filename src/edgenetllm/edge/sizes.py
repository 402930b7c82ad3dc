"""Bytes of a policy in every form of a bundle and as a dense model, whatever form it has been written in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from edgenetllm.edge.encoding import BITS, TYPES, MaskForm, Matrix, Values, mask_bytes, nonzeros_of
from edgenetllm.edge.positions import LONGEST
from edgenetllm.edge.quantise import group_size
from edgenetllm.edge.tensors_file import Stored

SHIPPED: tuple[Literal["fp16", "int8", "int4"], ...] = ("fp16", "int8", "int4")
MASKS: tuple[MaskForm, ...] = ("none", "bitmask", "delta")


def form_name(mask: str, values: str) -> str:
    return f"dense {values}" if mask == "none" else f"{mask} {values}"


def bytes_of_forms(sparse: Mapping[str, Matrix], group: int | None = None) -> dict[str, int]:
    """Form (`dense int8`, `delta int4`, ...) -> bytes of these tensors in it, without headers, compressed by nothing.

    Integers have a bfloat16 scale for each `group` of columns (None: each row); arrays that are no matrix stay fp16.
    """
    totals = {form_name(mask, values): 0 for mask in MASKS for values in SHIPPED}
    for tensor in sparse.values():
        nonzero = nonzeros_of(tensor)
        count, masks = int(nonzero.sum()), mask_bytes(nonzero)
        for values in SHIPPED:
            quantised = values != "fp16" and len(tensor.shape) == 2
            bits = BITS[TYPES[values if quantised else "fp16"]]
            scales = 2 * nonzero.size // group_size(tensor.shape[1], group) if quantised else 0
            for mask in MASKS:
                stored = nonzero.size if mask == "none" else count
                totals[form_name(mask, values)] += -(-stored * bits // 8) + scales + masks[mask]
    return totals


def expected_bits(density: float, values: Values, mask: MaskForm | Literal["auto"]) -> float:
    """Bits per weight with this fraction of non-zeros, were they anywhere with equal probability; without scales."""
    stored = density * BITS[TYPES[values]]
    reached = 1 - (1 - density) ** LONGEST  # by a half byte: 15 weights, or fewer and a non-zero
    bits: dict[str, float] = {
        "none": BITS[TYPES[values]],
        "bitmask": 1 + stored,
        "delta": 4 * (density / reached if density else 1 / LONGEST) + stored,
    }
    return min(bits.values()) if mask == "auto" else bits[mask]


def sizes_of(
    sparse: Mapping[str, Matrix],
    dense: Mapping[str, npt.NDArray[Any]],
    sparse_parts: Mapping[str, Stored],
    dense_parts: Mapping[str, Stored],
    total: int,
    group: int | None,
) -> dict[str, Any]:
    """The sizes of a bundle of `total` bytes that stores these tensors as these parts.

    `forms` are bytes of the whole bundle had it been written in that form, uncompressed: they differ in the pruned
    matrices alone. `dense_*_bytes` are the same tensors, pruned or not, all in that encoding, as a dense model is shipped.
    `smallest` names the least of the forms.
    """
    shapes = [tuple(tensor.shape) for tensor in (*sparse.values(), *dense.values())]
    weights = sum(math.prod(tensor.shape) for tensor in sparse.values())
    zeros = weights - sum(int(nonzeros_of(tensor).sum()) for tensor in sparse.values())
    sparse_bytes = sum(array.nbytes for _, array in sparse_parts.values())
    rest = sum(array.nbytes for _, array in dense_parts.values())
    forms = {form: size + rest for form, size in bytes_of_forms(sparse, group).items()}
    return {
        "bits_per_weight": 8 * sparse_bytes / weights if weights else None,
        "sparse_bytes": sparse_bytes,
        **{f"dense_{name}_bytes": dense_bytes(shapes, name) for name in ("fp32", "fp16", "int8", "int4")},
        "weights": weights,
        "zeros": zeros,
        "forms": forms,
        "smallest": min(forms, key=lambda form: forms[form]),
    }


def dense_bytes(shapes: Iterable[Sequence[int]], encoding: Literal["fp32", "fp16", "int8", "int4"]) -> int:
    """Bytes of dense tensors of these shapes, without file headers.

    `int8` and `int4` have one fp16 scale per row of a matrix; vectors and scalars (norms, biases) stay fp16, as is usual.
    """
    total = 0
    for shape in shapes:
        numel = math.prod(shape)
        if encoding in ("int8", "int4") and len(shape) >= 2:
            total += (numel if encoding == "int8" else -(-numel // 2)) + 2 * (numel // shape[-1])
        else:
            total += numel * (4 if encoding == "fp32" else 2)
    return total
