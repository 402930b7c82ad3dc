"""All weights of a decoder in two arrays: the matrices packed in an arena of bytes, everything else as float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.architectures import Architecture
from edgenetllm.edge.compiled.layouts import INFO, Layout, Packed, aligned_bytes, pack, pack_bf16
from edgenetllm.edge.compiled.names import (
    POSITIONS,
    TRANSPOSED,
    Layer,
    layers,
    matrix_shapes,
    norms,
    vector_shapes,
)
from edgenetllm.edge.compiled.step import NOWHERE, OFFSET, Network
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.errors import UserError

Form: TypeAlias = Literal["int8", "bf16"]
Weight: TypeAlias = npt.NDArray[Any] | QuantisedMatrix
Floats: TypeAlias = npt.NDArray[np.float32]


def check_weights(architecture: Architecture, weights: Mapping[str, Weight]) -> None:
    """Raises UserError unless these are exactly the weights of the decoder, of the right shapes and finite."""
    if architecture.blocks > len(weights):  # a configuration may ask for any number of names
        raise UserError(f"the weights of this {architecture.kind} decoder are too few for {architecture.blocks} blocks")
    vectors, matrices = vector_shapes(architecture), matrix_shapes(architecture)
    expected = vectors.keys() | matrices.keys()
    if different := sorted(expected ^ weights.keys()):
        missing = [name for name in different if name in expected]
        what, names = ("lack", missing) if missing else ("have, beyond those of the architecture,", different)
        raise UserError(f"the weights of this {architecture.kind} decoder {what} {', '.join(names[:3])}")
    for name, weight in weights.items():
        shape: tuple[int, ...] = matrices.get(name) or vectors[name]
        if name in matrices and isinstance(weight, np.ndarray) and architecture.kind in TRANSPOSED:
            shape = shape[::-1]
        if isinstance(weight, QuantisedMatrix) and name not in matrices:
            raise UserError(f"{name} of this {architecture.kind} decoder must be an array of floats, not quantised")
        if tuple(weight.shape) != shape:
            raise UserError(
                f"{name} of this {architecture.kind} decoder has the shape {tuple(weight.shape)}, not {shape}"
            )
        floats = weight.scales if isinstance(weight, QuantisedMatrix) else weight
        if not np.issubdtype(floats.dtype, np.floating) or not np.isfinite(floats).all():
            raise UserError(f"{name} of this decoder must hold finite floating-point numbers")


def build_network(
    architecture: Architecture, weights: Mapping[str, Weight], form: Form, layout: Layout | None
) -> tuple[Network, dict[str, Layout]]:
    """The arena and the tables of where everything is in it, and the layout of each matrix by its name."""
    packed: list[Packed] = []
    layouts: dict[str, Layout] = {}
    for layer in layers(architecture):
        one = _pack(_joined(architecture, layer, weights, form), form, layout)
        packed.append(one)
        layouts |= {f"{name}.weight": one.layout for name in layer.names}
    arena, table = _arena(packed)
    parameters, places = _parameters(architecture, weights)
    frequencies = architecture.frequencies
    network = Network(
        arena=arena,
        matrices=table,
        parameters=parameters,
        places=places,
        frequencies=np.zeros(0, np.float32) if frequencies is None else frequencies,
    )
    return network, layouts


def quantise_rows(matrix: Floats) -> QuantisedMatrix:
    """The matrix (out, in) rounded to nearest in int8, symmetric, with one scale for each row: its maximum is 127."""
    scales = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127)
    divisors = np.where(scales == 0, np.float32(1), scales)
    return QuantisedMatrix(np.rint(matrix / divisors).astype(np.int8), scales.astype(np.float32))


def _joined(
    architecture: Architecture, layer: Layer, weights: Mapping[str, Weight], form: Form
) -> QuantisedMatrix | Floats:
    """The matrices of a product under each other, (out, in): quantised by row, or as floats in the form bf16."""
    parts = [weights[f"{name}.weight"] for name in layer.names]
    if form == "bf16":
        return np.concatenate([_as_floats(architecture, part) for part in parts])
    quantised = [_by_row(architecture, part) for part in parts]
    return QuantisedMatrix(
        np.concatenate([part.values for part in quantised]), np.concatenate([part.scales for part in quantised])
    )


def _by_row(architecture: Architecture, weight: Weight) -> QuantisedMatrix:
    if isinstance(weight, QuantisedMatrix) and weight.scales.shape[1] == 1:
        return weight
    return quantise_rows(_as_floats(architecture, weight))


def _as_floats(architecture: Architecture, weight: Weight) -> Floats:
    """The matrix (out, in)."""
    if isinstance(weight, QuantisedMatrix):
        return weight.dense()
    turned = weight.T if architecture.kind in TRANSPOSED else weight
    return np.ascontiguousarray(turned, np.float32)


def _pack(matrix: QuantisedMatrix | Floats, form: Form, layout: Layout | None) -> Packed:
    return pack(matrix, layout) if isinstance(matrix, QuantisedMatrix) else pack_bf16(matrix)


def _arena(packed: list[Packed]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The matrices one after the other, in the order in which they are read, and a row of the table for each."""
    arena = aligned_bytes(sum(one.nbytes for one in packed))
    table, end = np.zeros((len(packed), INFO + 1), np.int64), 0
    for row, one in zip(table, packed, strict=True):
        arena[end : end + one.nbytes] = one.data
        row[:INFO], row[OFFSET] = one.info, end
        end += one.nbytes
    return arena, table


def _parameters(architecture: Architecture, weights: Mapping[str, Weight]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Norms, biases and the table of positions in one array, and where: rows of weight and bias, NOWHERE if absent.

    The rows are those of the norms (two for each block, and the last one), then those of the products (the first column
    is unused), and of the table of positions.
    """
    pieces: list[Floats] = []
    rows: list[tuple[int, int]] = []

    def place(names: tuple[str, ...]) -> int:
        if names[0] not in weights:
            return NOWHERE
        start = sum(len(piece) for piece in pieces)
        pieces.extend(np.ascontiguousarray(weights[name], np.float32).reshape(-1) for name in names)  # type: ignore[arg-type]
        pieces.append(np.zeros(-sum(len(piece) for piece in pieces) % 16, np.float32))  # the next begins a cache line
        return start

    for name in norms(architecture):
        rows.append((place((f"{name}.weight",)), place((f"{name}.bias",))))
    for layer in layers(architecture):
        rows.append((NOWHERE, place(tuple(f"{name}.bias" for name in layer.names))))
    if architecture.positions is not None:
        rows.append((place((POSITIONS[architecture.kind],)), NOWHERE))
    everything = np.concatenate(pieces)
    aligned = aligned_bytes(everything.nbytes).view(np.float32)
    aligned[:] = everything
    return aligned, np.array(rows, np.int64)
