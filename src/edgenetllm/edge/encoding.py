"""A sparse matrix on disk: one bit per weight says where a non-zero is, and the non-zeros follow, packed in row order.

At sparsity s a weight costs 1 + (1 - s)·b bits, with b bits per value. At s = 0.4 and fp16 that is 10.6 bits: less than
dense fp16 (16), more than dense int8 (8). `dense_bytes` is here so that no report can forget the second half.

Layout. `mask` is uint8 of ceil(numel / 8) bytes: weight k of the flattened row-major matrix is bit 7 - k % 8 of byte
k // 8, the order of `numpy.packbits` (`bitorder="big"`); the unused low bits of the last byte are 0. `values` is a
vector of the non-zeros in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgenetllm.errors import UserError

Values = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def encode(weight: Tensor, values: Values, name: str = "weight") -> dict[str, Tensor]:
    """A floating-point tensor of any shape to `{"mask": uint8 (ceil(numel / 8),), "values": (non-zeros,)}`, on the CPU.

    The zeros of `weight` are exactly the zeros of what `decode` returns: a non-zero too small for `values` becomes the
    smallest number of its sign instead of a zero. Raises UserError, naming the tensor, for NaN, infinity and overflow.
    """
    flat = weight.detach().to("cpu").reshape(-1)
    mask = flat != 0
    return {
        "mask": torch.from_numpy(np.packbits(mask.numpy())),
        "values": narrow(flat[mask], DTYPES[values], name, keep_nonzero=True),
    }


def decode(
    parts: Mapping[str, Tensor], shape: Sequence[int], dtype: torch.dtype = torch.float32, name: str = "weight"
) -> Tensor:
    """The tensor of `shape` that `encode` was given, in `dtype`, with the same zeros.

    Everything is checked before the dense tensor is allocated. Raises UserError, naming the tensor, when the mask has
    the wrong size or set padding bits, when its population count is not the number of values, or when a value is zero
    or not finite.
    """
    numel = math.prod(shape)
    check_parts(parts, numel, name)
    bits = np.unpackbits(parts["mask"].numpy(), count=numel)
    values = narrow(parts["values"], dtype, name, keep_nonzero=True)
    dense = torch.zeros(numel, dtype=dtype)
    dense[torch.from_numpy(bits).bool()] = values
    return dense.reshape(*shape)


def check_parts(parts: Mapping[str, Tensor], numel: int, name: str = "weight") -> None:
    """Raise UserError unless `parts` is what `encode` makes of `numel` weights."""
    if set(parts) != {"mask", "values"}:
        raise UserError(f"{name}: a sparse tensor has parts mask and values, not {sorted(parts)}")
    mask, values = parts["mask"], parts["values"]
    if mask.dtype != torch.uint8 or tuple(mask.shape) != (mask_bytes(numel),):
        raise UserError(f"{name}: {numel} weights need a mask of {mask_bytes(numel)} bytes, not {tuple(mask.shape)}")
    if values.dtype not in DTYPES.values() or values.ndim != 1:
        raise UserError(f"{name}: values are {values.dtype} {tuple(values.shape)}, not a vector of floats")
    if numel % 8 and int(mask[-1]) & (0xFF >> numel % 8):
        raise UserError(f"{name}: the padding bits of the mask are not zero")
    ones = int(np.bitwise_count(mask.numpy()).sum(dtype=np.int64))
    if ones != values.numel():
        raise UserError(f"{name}: the mask marks {ones} non-zeros but {values.numel()} values are stored")
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{name}: a stored value is NaN or infinite")
    if bool((values == 0).any()):
        raise UserError(f"{name}: a value marked as non-zero is zero")


def narrow(tensor: Tensor, dtype: torch.dtype, name: str, keep_nonzero: bool = False) -> Tensor:
    """A copy of `tensor` in `dtype`, contiguous, on the CPU. Raises UserError where a value is or becomes not finite.

    With `keep_nonzero`, a value that would round to zero becomes the smallest subnormal of its sign.
    """
    tensor = tensor.detach().to("cpu")
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"{name}: contains NaN or infinity")
    result = tensor.to(dtype, copy=True).contiguous()
    if not bool(torch.isfinite(result).all()):
        largest = float(tensor.abs().max())
        raise UserError(
            f"{name}: {largest:.4g} overflows {str(dtype).removeprefix('torch.')}; type export.values=bf16 or fp32"
        )
    if keep_nonzero:
        vanished = (result == 0) & (tensor != 0)
        if bool(vanished.any()):
            result[vanished] = torch.where(tensor[vanished] > 0, 1.0, -1.0).to(dtype) * _smallest(dtype)
    return result


def _smallest(dtype: torch.dtype) -> Tensor:
    """The smallest positive subnormal of a float type: the number whose bits are 0...01."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    return torch.ones((), dtype=integer).view(dtype)


def mask_bytes(numel: int) -> int:
    return -(-numel // 8)


def dense_bytes(shapes: Iterable[Sequence[int]], encoding: Literal["fp32", "fp16", "int8"]) -> int:
    """Bytes of dense tensors of these shapes, without file headers.

    `int8` has one fp16 scale per row of a matrix; vectors and scalars (norms, biases) stay fp16, as is usual.
    """
    total = 0
    for shape in shapes:
        numel = math.prod(shape)
        if encoding == "int8" and len(shape) >= 2:
            total += numel + 2 * (numel // shape[-1])
        else:
            total += numel * (4 if encoding == "fp32" else 2)
    return total


def bits_per_weight(parts: Iterable[Mapping[str, Tensor]], weights: int) -> float:
    """Bits of masks and values over `weights`, the number of weights in the dense matrices, zeros included."""
    return 8 * sum(tensor.nbytes for part in parts for tensor in part.values()) / weights
