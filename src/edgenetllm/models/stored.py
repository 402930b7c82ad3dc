"""A checkpoint as it is stored: tensors with their hash, read without unpickling, and refused where it was altered."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic

HASH = "sha256"  # key in a checkpoint
HASHED = (  # what a run goes on from, and a module is built from
    "state_dict", "optimizer_states", "backbone", "target_return", "hyper_parameters", "frozen"
)  # fmt: skip


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all; with `keep` the one before is kept under that name."""
    buffer = io.BytesIO()  # torch does not say of a file what went wrong with it
    torch.save(dict(checkpoint), buffer)
    write_atomic(path, buffer.getbuffer(), keep)


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The checkpoint in a file. Raises UserError when it is unreadable, damaged, altered, or not finite."""
    checkpoint = _loaded(path)
    try:
        check_unaltered(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return checkpoint


def damage(path: Path) -> str | None:
    """The reason why a checkpoint is not as it was written; None for one that is."""
    try:
        checkpoint = _loaded(path)
        with zipfile.ZipFile(path) as records:  # torch itself compares no checksums
            damaged = records.testzip()
    except UserError as error:
        return str(error).removeprefix(f"{path} ")
    except Exception as error:  # whatever a damaged file makes of its reader
        return f"is not a readable checkpoint ({error})"
    return None if damaged is None and _is_unaltered(checkpoint) else "is damaged or was altered (its hash differs)"


def _loaded(path: Path | str) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a readable checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is not a checkpoint of an adaptation")
    return checkpoint


def seal_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Add the hash of all that a run goes on from."""
    checkpoint[HASH] = _hash(checkpoint)


def check_unaltered(checkpoint: Mapping[str, Any]) -> None:
    """Raises UserError unless the checkpoint is as it was sealed, and what it holds is finite.

    One of an older version has no hash, and only has to be finite.
    """
    if not _is_unaltered(checkpoint):
        raise UserError("the checkpoint is damaged or was altered (its hash differs)")
    for name, tensor in checkpoint["state_dict"].items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"the checkpoint is not finite: {name} holds NaN or infinity")
    require_finite(checkpoint.get("target_return"), "its return-to-go")


def _is_unaltered(checkpoint: Mapping[str, Any]) -> bool:
    return HASH not in checkpoint or bool(checkpoint[HASH] == _hash(checkpoint))


def require_finite(value: Any, what: str) -> None:
    """Raises UserError where a number, or one in a mapping of numbers, is not finite."""
    for number in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{what} is {number}, not a finite number")


def _hash(checkpoint: Mapping[str, Any]) -> str:
    return values_hash({name: checkpoint[name] for name in HASHED if name in checkpoint})


def trained_hash(checkpoint: Path) -> str:
    """The hash of the trained tensors in a checkpoint, whatever else is stored with them."""
    return values_hash(read_checkpoint(checkpoint)["state_dict"])


def values_hash(value: Any) -> str:
    """SHA-256 of tensors (type, shape, bytes) and plain values, in mappings and lists of any depth."""
    digest = hashlib.sha256()

    def add(node: Any, path: str) -> None:
        if isinstance(node, Tensor):
            digest.update(f"{path} {node.dtype} {tuple(node.shape)}\0".encode())
            digest.update(node.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(node, Mapping):
            for key in sorted(node, key=str):
                add(node[key], f"{path}/{key}")
        elif isinstance(node, list | tuple):
            for number, item in enumerate(node):
                add(item, f"{path}/{number}")
        else:
            digest.update(f"{path} {json.dumps(node, default=str)}\0".encode())

    add(value, "")
    return digest.hexdigest()
