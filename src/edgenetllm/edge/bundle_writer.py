"""Writing a bundle: whole, or around the sparse file of another one, which is copied byte by byte.

The forms of the files are described in `bundle.py` and `encoding.py`. No torch is needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgenetllm.edge.bundle import (
    DENSE_FILE,
    FLOATS,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SPARSE_FILE,
    Array,
    read_bundle,
    read_file,
)
from edgenetllm.edge.compression import ENDING, Compression, check_installed, pack
from edgenetllm.edge.encoding import TYPES, MaskForm, Matrix, Values, encode, form_of, nonzeros_of
from edgenetllm.edge.floats import narrow
from edgenetllm.edge.manifest import FORMAT, FileEntry, LayerSparsity, Manifest, TensorEntry, from_bytes, to_bytes
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.edge.sizes import sizes_of
from edgenetllm.edge.tensors_file import METADATA, Stored, file_bytes, file_tensors
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, write_atomic

# Integers that a dense tensor may have.
_INTEGERS: dict[str, str] = {"int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


def write_bundle(
    path: Path | str,
    *,
    sparse: Mapping[str, Matrix],
    dense: Mapping[str, Array],
    manifest: Mapping[str, Any],
    values: Values = "int8",
    mask: MaskForm | Literal["auto"] = "auto",
    group: int | None = None,
    compress: Compression = "none",
    transposed: Collection[str] = (),
    dense_values: Literal["fp32", "fp16", "bf16"] = "fp32",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a bundle folder, whole or not at all, and return its sizes (`results.json`'s `bundle`).

    `sparse` are floating-point arrays, stored in `values` with a `mask` and, if integers, a scale for each `group` of columns
    (None: for each row); a QuantisedMatrix, (out, in), is stored as it is. The names in `transposed` are those of matrices
    that are (in, out) in the policy. Arrays that are no matrix are stored as fp16 instead of integers. `dense` arrays are
    stored as they are, the floating-point ones in `dense_values`. `manifest` has keys task (str), model (dict), metrics
    (dict, of the dense parent) and optionally extra (dict); all JSON.

    Raises UserError if `path` exists and `overwrite` is False, for NaN, infinity and overflow in a tensor, for a tensor
    that cannot be stored, for a manifest that is not JSON, and for a compression that is not installed.
    """
    # Pack the sparse tensors as mask and values, then the dense ones.
    check_installed(compress)
    _check_names(sparse, dense)
    stated = _stated(manifest)
    entries: dict[str, TensorEntry] = {}
    counts: dict[str, LayerSparsity] = {}
    packed: dict[str, dict[str, Stored]] = {SPARSE_FILE: {}, DENSE_FILE: {}}
    ending = "" if compress == "none" else ENDING
    for name, tensor in sparse.items():
        entries[name], counts[name], parts = _packed(tensor, name, values, mask, group, name in transposed)
        packed[SPARSE_FILE] |= {f"{name}.{part}": stored for part, stored in parts.items()}
    for name, array in dense.items():
        entries[name], packed[DENSE_FILE][name] = _dense(array, name, TYPES[dense_values])
    entries = {name: replace(entry, file=entry.file + ending) for name, entry in entries.items()}

    # Write the files, and last the manifest that holds their hashes.
    with atomic_folder(path, overwrite) as folder:
        files = {}
        for file, tensors in packed.items():
            if tensors:
                files[file + ending] = _write_file(folder / (file + ending), tensors, compress)
        total, digest = _write_manifest(
            folder, path, {**stated, "sparsity": counts, "tensors": entries, "files": files}
        )
    return {
        "bytes": total,
        "digest": digest,
        **sizes_of(sparse, dense, packed[SPARSE_FILE], packed[DENSE_FILE], total, group),
        "values": values,
        "dense_values": dense_values,
        "mask": mask,
        "group": group,
        "compression": compress,
    }


def write_around_sparse(
    parent: Path | str,
    path: Path | str,
    *,
    dense: Mapping[str, Array],
    manifest: Mapping[str, Any],
    group: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a bundle whose sparse files are those of the bundle `parent`, byte by byte, with other `dense` tensors.

    A dense tensor has the type on disk that it has in the parent; a floating-point one that is new, or of another shape, the
    type of most of the parent's. The dense file is compressed where the parent's is. `manifest` and `overwrite` are as in
    `write_bundle`, `group` only says for which groups of columns sizes are computed. Returns the sizes, without the options.

    Raises UserError like `write_bundle` and `read_bundle`, and where a tensor is one of the parent's sparse ones.
    """
    # What stays, and the dense tensors.
    before = read_bundle(parent)
    kept = {name: entry for name, entry in before.manifest.tensors.items() if entry.kind == "sparse"}
    _check_names({name: before.tensors[name] for name in kept}, dense)
    stated = _stated(manifest)
    types = _types_of(before.manifest)
    usual = max(types.values(), key=list(types.values()).count, default="F32")
    ending = ENDING if any(name.endswith(ENDING) for name in before.manifest.files) else ""
    compress: Compression = "zstd" if ending else "none"
    check_installed(compress)
    entries, packed = dict(kept), {}
    for name, array in dense.items():
        small, packed[name] = _dense(array, name, types.get(name, usual))
        entries[name] = replace(small, file=DENSE_FILE + ending)
    # Copy the files that stay, write the dense one, and last the manifest.
    files = {name: before.manifest.files[name] for name in sorted({entry.file for entry in kept.values()})}
    if clash := set(files) & {DENSE_FILE + ending}:
        raise UserError(f"{parent}: its {clash.pop()} holds sparse tensors too: it cannot be replaced")
    with atomic_folder(path, overwrite) as folder:
        for name, entry in files.items():
            shutil.copyfile(Path(parent) / name, folder / name)
            read_file(folder / name, entry)  # as it was when it was checked
        stored = {part: array for name in files for part, array in _parts(folder / name, files[name]).items()}
        files |= {DENSE_FILE + ending: _write_file(folder / (DENSE_FILE + ending), packed, compress)} if packed else {}
        fields = {**stated, "sparsity": before.manifest.sparsity, "tensors": entries, "files": files}
        total, digest = _write_manifest(folder, path, fields)
        matrices = {name: before.tensors[name] for name in kept}
        return {"bytes": total, "digest": digest, **sizes_of(matrices, dense, stored, packed, total, group)}


def _types_of(manifest: Manifest) -> dict[str, str]:
    """Name -> type on disk of the dense floating-point tensors."""
    return {name: one.dtype for name, one in manifest.tensors.items() if one.kind == "dense" and one.dtype in FLOATS}


def _parts(path: Path, entry: FileEntry) -> dict[str, Stored]:
    """The parts of the tensors in a file."""
    return file_tensors(read_file(path, entry), str(path))


def _dense(array: Array, name: str, floats: str) -> tuple[TensorEntry, Stored]:
    """The entry of a dense tensor, and what is stored of it: of a floating-point one the type `floats`."""
    dtype = floats if array.dtype.kind == "f" else _INTEGERS[array.dtype.name]
    entry = TensorEntry(file=DENSE_FILE, kind="dense", dtype=dtype, shape=list(array.shape))
    return entry, (dtype, narrow(array, dtype, name) if dtype in FLOATS else array)


def _packed(
    tensor: Matrix, name: str, values: Values, mask: MaskForm | Literal["auto"], group: int | None, transposed: bool
) -> tuple[TensorEntry, LayerSparsity, dict[str, Stored]]:
    """The entry, the counts and the parts of a sparse tensor."""
    quantised = isinstance(tensor, QuantisedMatrix)
    turned = transposed and values in ("int8", "int4") and len(tensor.shape) == 2
    stored = tensor.T if turned and not isinstance(tensor, QuantisedMatrix) else tensor  # (out, in)
    form = form_of(stored, values, mask, group)
    if quantised and form.group is None:
        raise UserError(f"{name}: a QuantisedMatrix is stored as int8 or int4, not as {values}")
    parts = encode(stored, form, name)
    nonzero = nonzeros_of(stored)
    shape = list(reversed(stored.shape)) if turned else list(stored.shape)
    entry = TensorEntry(
        file=SPARSE_FILE, kind="sparse", dtype=form.dtype, shape=shape, mask=form.mask, group=form.group,
        transposed=turned,
    )  # fmt: skip
    return entry, LayerSparsity(zeros=nonzero.size - int(nonzero.sum()), numel=nonzero.size), parts


def _write_file(path: Path, tensors: Mapping[str, Stored], compress: Compression) -> FileEntry:
    unpacked = file_bytes(tensors)
    data = pack(unpacked, path.name) if compress == "zstd" else unpacked
    path.write_bytes(data)
    size = None if compress == "none" else len(unpacked)
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), unpacked=size)


def _check_names(sparse: Mapping[str, Matrix], dense: Mapping[str, Array]) -> None:
    both = set(sparse) & set(dense)
    if both:
        raise UserError(f"bundle: tensor {sorted(both)[0]} is both sparse and dense")
    for name, tensor in [*sparse.items(), *dense.items()]:
        if 0 in tensor.shape:
            raise UserError(f"bundle: tensor {name} is empty")
        if isinstance(tensor, QuantisedMatrix):
            continue
        if tensor.dtype.kind != "f" and (name in sparse or tensor.dtype.name not in _INTEGERS):
            raise UserError(f"bundle: tensor {name} of {tensor.dtype} cannot be stored")
        if name == METADATA:
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


def _write_manifest(folder: Path, path: Path | str, fields: dict[str, Any]) -> tuple[int, str]:
    """Write the manifest of a bundle that will lie in `path`; returns the bytes of the whole bundle, and its digest.

    Raises UserError for one that `read_manifest` would refuse.
    """
    text = to_bytes(_manifest(fields))
    if len(text) > MAX_MANIFEST_BYTES:
        raise UserError(f"{path}: a manifest of {len(text)} bytes is too large; keep `extra` short")
    digest = from_bytes(text, str(path)).digest
    write_atomic(folder / MANIFEST, text)
    return len(text) + sum(entry.bytes for entry in fields["files"].values()), digest


def _manifest(fields: dict[str, Any]) -> Manifest:
    try:
        return Manifest(format=FORMAT, **fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"manifest of a bundle: {error}") from None
