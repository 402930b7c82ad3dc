"""A file of torch.save as plain tensors and values, within bounds that follow from its size; nothing in it is run.

`torch.load(weights_only=True)` builds no foreign object, but it believes what a file says of itself: a tensor of 2^40 zeros
in a few bytes, a tuple that holds another a thousand times. Each is refused before it is copied, hashed or computed with.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.models.tuples import check_tuples

PICKLE_BYTES = 4 * 2**20  # of the structure of a checkpoint, without its numbers
ENTRIES = 100_000  # tensors in a file
VALUES = 200_000  # values in the structure
DEEPEST = 32  # values within values
SHARED = 4  # tensors may look at the same numbers: at most so many times the size of the file
TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


def load_archive(path: Path) -> Any:
    """The values in a file of torch.save, tensors on the CPU. Raises UserError, naming it, for anything else."""
    try:
        damaged = _check_entries(path)
        values = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
        _check_values(values, SHARED * path.stat().st_size)
    except UserError as error:
        raise UserError(f"{path} is not a readable checkpoint ({error})") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # readers of zip files and pickles raise anything for bytes that are neither
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{path} is not a readable checkpoint ({reason:.200})") from None
    if damaged:
        raise UserError(f"{path}: the checkpoint is damaged or was altered (the checksum of {damaged:.60} differs)")
    return values


def _check_entries(path: Path) -> str | None:
    """The name of an entry whose checksum differs, None where there is none.

    Raises UserError unless the file is a zip archive whose entries are stored as they are, and within bounds.
    """
    if not path.is_file():
        raise UserError("not a file" if path.exists() else "no such file")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError("an entry is compressed")
        if len(entries) > ENTRIES or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise UserError("its entries claim more bytes than the file has")
        if sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl")) > PICKLE_BYTES:
            raise UserError(f"its structure has more than {PICKLE_BYTES / 2**20:g} MiB")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                check_tuples(archive.read(entry), VALUES)
        return archive.testzip()


def _check_values(values: Any, most_bytes: int) -> None:
    """Raises UserError for values that are not plain, or that stand for more than the file can hold."""
    level, count, size = [("", values)], 0, 0
    for _ in range(DEEPEST):
        inner: list[tuple[str, Any]] = []
        for path, value in level:
            if isinstance(value, Tensor):
                size += _bytes_of(value, path)
            elif isinstance(value, dict):
                inner += ((f"{path}.{key!s:.60}".lstrip("."), one) for key, one in value.items())
            elif isinstance(value, list | tuple | set | frozenset):
                inner += ((f"{path}[{number}]", one) for number, one in enumerate(value))
            elif isinstance(value, int) and not -(2**63) < value < 2**64:
                raise UserError(f"{path} is a whole number of more than 64 bits")
            count += 1
            if count + len(inner) > VALUES:
                raise UserError(f"it holds more than {VALUES:,} values")
            if size > most_bytes:
                raise UserError("its tensors stand for more bytes than the file has")
        if not inner:
            return
        level = inner
    raise UserError(f"its values are nested deeper than {DEEPEST}")


def _bytes_of(tensor: Tensor, path: str) -> int:
    """The bytes that a copy of the tensor takes. Raises UserError unless it is a plain one whose numbers are all there."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.dtype not in TYPES or tensor.is_nested:
        raise UserError(f"{path} is not a plain tensor")
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise UserError(f"{path} has the shape {list(tensor.shape)}, of which the file has not all numbers")
    return size
