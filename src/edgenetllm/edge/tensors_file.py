"""Reader and writer of safetensors files that need numpy alone, and know bfloat16 (as uint16).

Format: 8 bytes, the length of a JSON header (little-endian); the header, name -> dtype, shape and `data_offsets`; the data
of the tensors, little-endian and without gaps (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError

Stored = tuple[str, npt.NDArray[Any]]
"""A tensor in a file: its type in the words of safetensors, and its array."""

TYPES: dict[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.uint8,
}
METADATA = "__metadata__"  # the one name that the format keeps for itself


def file_bytes(tensors: Mapping[str, Stored]) -> bytes:
    """The file of these tensors, wide types first, so that each of them is aligned, then by name."""
    order = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
    header: dict[str, Any] = {}
    at = 0
    for name in order:
        dtype, array = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = [np.ascontiguousarray(tensors[name][1]).tobytes() for name in order]
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


def file_tensors(data: npt.NDArray[np.uint8], where: str) -> dict[str, Stored]:
    """The tensors of an untrusted file, as views of its bytes. Raises UserError beginning with `where`."""
    try:
        return _tensors(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{where}: not a valid safetensors file: {error!s:.200}") from None


def _tensors(data: npt.NDArray[np.uint8]) -> dict[str, Stored]:
    """Raises ValueError, TypeError, KeyError or RecursionError for a file that is not as the format says."""
    # The header.
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError(f"{len(data)} bytes are too few for its header")
    header = json.loads(data[8 : 8 + length].tobytes().decode(), object_pairs_hook=_no_duplicates)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop(METADATA, None)
    body = data[8 + length :]
    # The tensors, in the order in which they lie, each where the one before it ends.
    spans = {name: _span(entry) for name, entry in header.items()}
    tensors: dict[str, Stored] = {}
    at = 0
    for name in sorted(spans, key=lambda name: spans[name]):
        dtype, shape = header[name]["dtype"], header[name]["shape"]
        if not isinstance(dtype, str) or dtype not in TYPES:
            raise ValueError(f"tensor {name!r:.100} has dtype {dtype!r:.20}, which no bundle stores")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 8:
            raise ValueError(f"tensor {name!r:.100} has shape {shape!r:.50}")
        start, stop = spans[name]
        if start != at or stop - start != math.prod(shape) * np.dtype(TYPES[dtype]).itemsize or stop > len(body):
            raise ValueError(f"tensor {name!r:.100} does not lie where its shape says")
        tensors[name] = (dtype, np.frombuffer(body[start:stop].data, TYPES[dtype]).reshape(shape))
        at = stop
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes belong to no tensor")
    return tensors


def _span(entry: Any) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    if type(start) is not int or type(stop) is not int or not 0 <= start <= stop:
        raise ValueError(f"data_offsets {entry['data_offsets']!r:.50}")
    return start, stop


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)
