"""A checkpoint as it is stored: tensors with their hash, read without unpickling, and refused where it was altered."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic
from edgenetllm.models.archive import load_archive

HASH = "sha256"  # key in a checkpoint: the hash of the entries HASHED
REST = "sha256_rest"  # that of all others, which a module is not built from: epochs, steps, schedules, callbacks
HASHED = (  # what a run goes on from, and a module is built from
    "state_dict", "optimizer_states", "backbone", "target_return", "hyper_parameters", "frozen"
)  # fmt: skip
PLAIN = (str, int, float, bool, type(None))
ENTRIES: dict[str, tuple[type, Any]] = {  # entry of a checkpoint -> its kind, and the kinds of what it holds
    "state_dict": (dict, Tensor),
    "optimizer_states": (list, dict),
    "backbone": (dict, PLAIN),
    "hyper_parameters": (dict, object),
    "frozen": (list, str),
}
PROGRESS: dict[str, Any] = {  # what Lightning goes on from
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


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
        if REST in checkpoint and checkpoint[REST] != _rest_hash(checkpoint):
            raise UserError("the checkpoint is damaged or was altered (the hash of its progress differs)")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return checkpoint


def damage(path: Path) -> str | None:
    """The reason why a checkpoint is not as it was written; None for one that is."""
    try:
        checkpoint = _loaded(path)
    except UserError as error:
        return str(error).removeprefix(f"{path} ")
    except Exception as error:  # whatever a damaged file makes of its reader
        return f"is not a readable checkpoint ({error})"
    return None if _is_unaltered(checkpoint) else "is damaged or was altered (its hash differs)"


def read_progress(path: Path | str) -> dict[str, Any]:
    """A checkpoint from which a fit goes on. Raises UserError as `read_checkpoint`, and without the progress of a fit."""
    checkpoint = read_checkpoint(path)
    for name, kind in PROGRESS.items():
        if not isinstance(checkpoint.get(name), kind) or isinstance(checkpoint[name], bool):
            raise UserError(
                f"{path} holds no progress of a fit to go on from: {name} is missing, or not what it should be"
            )
    return checkpoint


def _loaded(path: Path | str) -> dict[str, Any]:
    """The checkpoint in a file, whose entries are of their kind. Raises UserError for any other file."""
    checkpoint = load_archive(Path(path))
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of an adaptation")
    for name, (kind, inner) in ENTRIES.items():
        value = checkpoint.get(name, kind())
        if not isinstance(value, kind) or not all(isinstance(one, inner) for one in _items(value)):
            raise UserError(f"{path} is not a checkpoint of an adaptation: its {name} is not what it should be")
    target = checkpoint.get("target_return", 0.0)
    if not all(isinstance(one, float | int) for one in (target.values() if isinstance(target, dict) else [target])):
        raise UserError(f"{path} is not a checkpoint of an adaptation: its target_return is no number")
    return checkpoint


def seal_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Add the hash of all that a module is built from, and that of the rest: how far the fit is."""
    checkpoint[HASH] = _hash(checkpoint)
    checkpoint[REST] = _rest_hash(checkpoint)


def check_unaltered(checkpoint: Mapping[str, Any]) -> None:
    """Raises UserError unless the checkpoint is as it was sealed, and what it holds is finite.

    One of an older version has no hash, and only has to be finite.
    """
    if not _is_unaltered(checkpoint):
        raise UserError("the checkpoint is damaged or was altered (its hash differs)")
    for part in ("state_dict", "optimizer_states"):
        for name, tensor in _tensors(checkpoint.get(part), part if part != "state_dict" else ""):
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


def _rest_hash(checkpoint: Mapping[str, Any]) -> str:
    return values_hash({name: value for name, value in checkpoint.items() if name not in (*HASHED, HASH, REST)})


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else value


def _tensors(node: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _tensors(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _tensors(value, f"{path}[{number}]")


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
