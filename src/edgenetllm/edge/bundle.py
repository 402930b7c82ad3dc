"""The folder that travels from cloud to edge: `manifest.json`, `sparse.safetensors` and `dense.safetensors`.

The pruned matrices are in the sparse file (see `encoding.py`), all else in the dense file, so that specialisation on
the edge rewrites only the small one. Nothing here is pickled and nothing is executed: `read_bundle` checks names,
sizes, hashes, shapes, dtypes and zero counts before it returns anything, and allocates nothing that the real sizes of
the files do not justify.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgenetllm.edge import encoding
from edgenetllm.edge.encoding import DTYPES, Values
from edgenetllm.edge.manifest import FORMAT, FileEntry, LayerSparsity, Manifest, TensorEntry, from_bytes, to_bytes
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, sha256_of, write_atomic

MANIFEST = "manifest.json"
SPARSE_FILE = "sparse.safetensors"
DENSE_FILE = "dense.safetensors"
MAX_MANIFEST_BYTES = 64 << 20

# What may be stored, in the words of safetensors.
_NAMES: dict[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check; `tensors` are dense, on the CPU, sparse ones with their zeros."""

    manifest: Manifest
    tensors: dict[str, Tensor]


def write_bundle(
    path: Path | str,
    *,
    sparse: Mapping[str, Tensor],
    dense: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
    values: Values = "fp16",
    dense_values: Values = "fp32",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a bundle folder, whole or not at all, and return its sizes (`results.json`'s `bundle`).

    `sparse` are floating-point tensors stored as mask and non-zeros in `values`; `dense` tensors are stored as they
    are, the floating-point ones in `dense_values`. `manifest` has keys task (str), model (dict), metrics (dict, of the
    dense parent) and optionally extra (dict); all JSON.

    Raises UserError if `path` exists and `overwrite` is False, for NaN, infinity and overflow in a tensor, for a tensor
    that cannot be stored, and for a manifest that is not JSON.
    """
    # Pack the sparse tensors as mask and non-zeros, then the dense ones.
    _check_names(sparse, dense)
    stated = _stated(manifest)
    entries: dict[str, TensorEntry] = {}
    counts: dict[str, LayerSparsity] = {}
    packed: dict[str, dict[str, Tensor]] = {SPARSE_FILE: {}, DENSE_FILE: {}}
    for name, tensor in sparse.items():
        encoded = encoding.encode(tensor, values, name)
        entries[name] = TensorEntry(
            file=SPARSE_FILE, kind="sparse", dtype=_NAMES[DTYPES[values]], shape=list(tensor.shape)
        )
        counts[name] = LayerSparsity(zeros=tensor.numel() - encoded["values"].numel(), numel=tensor.numel())
        packed[SPARSE_FILE] |= {f"{name}.{key}": data for key, data in encoded.items()}
    # Dense tensors.
    for name, tensor in dense.items():
        if tensor.is_floating_point():
            stored = encoding.narrow(tensor, DTYPES[dense_values], name)
        else:
            stored = tensor.detach().to("cpu", copy=True).contiguous()
        entries[name] = TensorEntry(file=DENSE_FILE, kind="dense", dtype=_NAMES[stored.dtype], shape=list(stored.shape))
        packed[DENSE_FILE][name] = stored

    # Write the files, and last the manifest that holds their hashes.
    with atomic_folder(path, overwrite) as folder:
        files = {}
        for file, tensors in packed.items():
            if tensors:
                save_file(tensors, folder / file)
                files[file] = FileEntry(sha256=sha256_of(folder / file), bytes=(folder / file).stat().st_size)
        fields = {**stated, "sparsity": counts, "tensors": entries, "files": files}
        text = to_bytes(_manifest(fields))
        if len(text) > MAX_MANIFEST_BYTES:
            raise UserError(f"{path}: a manifest of {len(text)} bytes is too large; keep `extra` short")
        write_atomic(folder / MANIFEST, text)
    total = len(text) + sum(entry.bytes for entry in files.values())
    return _sizes(total, packed[SPARSE_FILE], sparse, dense, values, dense_values)


def read_bundle(path: Path | str, dtype: torch.dtype = torch.float32) -> Bundle:
    """Read and check a bundle, which may come from an untrusted place. Floating-point tensors come back in `dtype`.

    Raises UserError, naming the file and the reason, for anything that is missing, superfluous, altered or
    inconsistent. The folder must not be written to by another process meanwhile.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    tensors: dict[str, Tensor] = {}
    for file in sorted(manifest.files):
        entries = {name: entry for name, entry in manifest.tensors.items() if entry.file == file}
        tensors |= _read_tensors(folder / file, entries, manifest.sparsity, dtype)
    return Bundle(manifest, {name: tensors[name] for name in manifest.tensors})


def _check_names(sparse: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> None:
    both = set(sparse) & set(dense)
    if both:
        raise UserError(f"bundle: tensor {sorted(both)[0]} is both sparse and dense")
    for name, tensor in [*sparse.items(), *dense.items()]:
        if tensor.numel() == 0:
            raise UserError(f"bundle: tensor {name} is empty")
        if not tensor.is_floating_point() and (name in sparse or tensor.dtype not in _NAMES):
            raise UserError(f"bundle: tensor {name} of {tensor.dtype} cannot be stored")
        if name == "__metadata__":
            raise UserError(f"bundle: safetensors keeps the name {name} for itself")


def _stated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's fields of the manifest as JSON will give it back: tuples are lists, and keys are strings."""
    unknown = set(manifest) - {"task", "model", "metrics", "extra"}
    if unknown:
        raise UserError(f"manifest of a bundle: unknown key {sorted(unknown)[0]!r}; put it under extra")
    stated: dict[str, Any] = {"extra": {}}
    for key, value in manifest.items():
        try:
            stated[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError(f"manifest of a bundle: {key} is not JSON: {error}") from None
    return stated


def _manifest(fields: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate({"format": FORMAT, **fields})
    except ValueError as error:
        raise UserError(f"manifest of a bundle: {error}") from None


def _sizes(
    total: int,
    packed: Mapping[str, Tensor],
    sparse: Mapping[str, Tensor],
    dense: Mapping[str, Tensor],
    values: Values,
    dense_values: Values,
) -> dict[str, Any]:
    """Sizes: `bytes` of the whole folder; `dense_*_bytes` of the same tensors, pruned or not, all in that encoding."""
    shapes = [tuple(tensor.shape) for tensor in (*sparse.values(), *dense.values())]
    weights = sum(tensor.numel() for tensor in sparse.values())
    nonzeros = sum(tensor.numel() for name, tensor in packed.items() if name.endswith(".values"))
    return {
        "bytes": total,
        "bits_per_weight": encoding.bits_per_weight([packed], weights) if weights else None,
        "sparse_bytes": sum(tensor.nbytes for tensor in packed.values()),
        "dense_fp32_bytes": encoding.dense_bytes(shapes, "fp32"),
        "dense_fp16_bytes": encoding.dense_bytes(shapes, "fp16"),
        "dense_int8_bytes": encoding.dense_bytes(shapes, "int8"),
        "weights": weights,
        "zeros": weights - nonzeros,
        "values": values,
        "dense_values": dense_values,
    }


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such bundle folder")
    if not os.path.lexists(folder / MANIFEST):
        raise UserError(f"{folder / MANIFEST}: missing, so this folder is not a bundle")
    size = _regular_size(folder / MANIFEST)
    if size > MAX_MANIFEST_BYTES:
        raise UserError(f"{folder / MANIFEST}: {size} bytes is too large for a manifest")
    try:
        data = (folder / MANIFEST).read_bytes()
        present = {entry.name for entry in os.scandir(folder)} - {MANIFEST}
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    manifest = from_bytes(data, str(folder / MANIFEST))
    for name in sorted(present ^ set(manifest.files)):
        raise UserError(f"{folder / name}: {'not in the manifest' if name in present else 'missing'}")
    return manifest


def _regular_size(path: Path) -> int:
    """Size in bytes of a regular file. Raises UserError for a link (it may lead anywhere), a folder or a device."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    return status.st_size


def _check_file(path: Path, entry: FileEntry) -> None:
    size = _regular_size(path)
    if size != entry.bytes:
        raise UserError(f"{path}: {size} bytes, but the manifest says {entry.bytes}")
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if digest != entry.sha256:
        raise UserError(f"{path}: damaged (its sha256 differs from the manifest)")


def _read_tensors(
    path: Path, entries: Mapping[str, TensorEntry], sparsity: Mapping[str, LayerSparsity], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one file, whose header is compared with the manifest before any of them is read."""
    # The tensors that the manifest announces.
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}  # name in the file -> dtype, shape
    for name, entry in entries.items():
        if entry.kind == "sparse":
            counts = sparsity[name]
            expected[f"{name}.mask"] = ("U8", (encoding.mask_bytes(entry.numel),))
            expected[f"{name}.values"] = (entry.dtype, (counts.numel - counts.zeros,))
        else:
            expected[name] = (entry.dtype, tuple(entry.shape))
    # Compare the header, and only then read.
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in sorted(names ^ set(expected)):
                raise UserError(f"{path}: tensor {name!r} is {'not in the manifest' if name in names else 'missing'}")
            for name, (kind, shape) in expected.items():
                header = file.get_slice(name)
                actual = (header.get_dtype(), tuple(header.get_shape()))
                if actual != (kind, shape):
                    raise UserError(f"{path}: tensor {name} is {actual}, but the manifest says {(kind, shape)}")
                if kind not in _NAMES.values():
                    raise UserError(f"{path}: tensor {name} has dtype {kind}, which no bundle stores")
            return {name: _load(file, path, name, entry, dtype) for name, entry in entries.items()}
    except SafetensorError as error:
        raise UserError(f"{path}: not a valid safetensors file: {error}") from None


def _load(file: Any, path: Path, name: str, entry: TensorEntry, dtype: torch.dtype) -> Tensor:
    where = f"{path}: tensor {name}"
    if entry.kind == "sparse":
        encoded = {key: file.get_tensor(f"{name}.{key}") for key in ("mask", "values")}
        return encoding.decode(encoded, entry.shape, dtype, where)
    tensor: Tensor = file.get_tensor(name)
    return encoding.narrow(tensor, dtype, where) if entry.dtype in _FLOATS else tensor.clone()
