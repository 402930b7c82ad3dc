"""The folder that travels from cloud to edge: `manifest.json`, `sparse.safetensors` and `dense.safetensors`.

The pruned matrices are in the sparse file (see `encoding.py`), all else in the dense file, so that specialisation on
the edge rewrites only the small one; compressed files end in `.zst`. Nothing here is pickled and nothing is executed:
`read_bundle` checks names, sizes, hashes, shapes, dtypes, zero counts and values before it returns anything, and allocates
nothing that the real sizes of the files do not justify. No torch is needed to read or to write.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compression import ENDING, Compression, check_installed, pack, unpack
from edgenetllm.edge.encoding import (
    ANY_LENGTH,
    TYPES,
    MaskForm,
    Matrix,
    Values,
    decode,
    encode,
    expected_parts,
    form_of,
    nonzeros_of,
)
from edgenetllm.edge.floats import is_finite, narrow, widen
from edgenetllm.edge.manifest import FORMAT, FileEntry, LayerSparsity, Manifest, TensorEntry, from_bytes, to_bytes
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.edge.sizes import sizes_of
from edgenetllm.edge.tensors_file import METADATA, Stored, file_bytes, file_tensors
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, write_atomic

MANIFEST = "manifest.json"
SPARSE_FILE = "sparse.safetensors"
DENSE_FILE = "dense.safetensors"
MAX_MANIFEST_BYTES = 64 << 20
Array = npt.NDArray[Any]
Tensor: TypeAlias = Array | QuantisedMatrix

# Integers that a dense tensor may have.
_INTEGERS: dict[str, str] = {"int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
_FLOATS = ("F32", "F16", "BF16")


class LazyTensors(Mapping[str, Tensor]):
    """Tensors that are unpacked, and their values checked, each time that they are asked for: one at a time in memory."""

    def __init__(self, loaders: Mapping[str, Callable[[], Tensor]]) -> None:
        self.loaders = loaders

    def __getitem__(self, name: str) -> Tensor:
        return self.loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check.

    `tensors`: floating-point ones are float32, with their zeros, integer ones are as they are, and a quantised matrix is a
    QuantisedMatrix, (out, in) even where the policy's tensor is (in, out); `array` gives any of them as the policy has it.
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]

    def under(self, prefix: str) -> LazyTensors:
        """The tensors whose names begin with `prefix`, by what follows it."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return LazyTensors({name.removeprefix(prefix): partial(self.tensors.__getitem__, name) for name in names})

    def array(self, name: str) -> Array:
        """A tensor as the policy's state dict has it; a quantised one in float32."""
        tensor = self.tensors[name]
        if not isinstance(tensor, QuantisedMatrix):
            return tensor
        return tensor.dense().T if self.manifest.tensors[name].transposed else tensor.dense()


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
        dtype = TYPES[dense_values] if array.dtype.kind == "f" else _INTEGERS[array.dtype.name]
        packed[DENSE_FILE][name] = (dtype, narrow(array, dtype, name) if dtype in _FLOATS else array)
        entries[name] = TensorEntry(file=DENSE_FILE, kind="dense", dtype=dtype, shape=list(array.shape))
    entries = {name: replace(entry, file=entry.file + ending) for name, entry in entries.items()}

    # Write the files, and last the manifest that holds their hashes.
    with atomic_folder(path, overwrite) as folder:
        files = {}
        for file, tensors in packed.items():
            if tensors:
                files[file + ending] = _write_file(folder / (file + ending), tensors, compress)
        fields = {**stated, "sparsity": counts, "tensors": entries, "files": files}
        text = to_bytes(_manifest(fields))
        if len(text) > MAX_MANIFEST_BYTES:
            raise UserError(f"{path}: a manifest of {len(text)} bytes is too large; keep `extra` short")
        write_atomic(folder / MANIFEST, text)
    total = len(text) + sum(entry.bytes for entry in files.values())
    return {
        "bytes": total,
        **sizes_of(sparse, dense, packed[SPARSE_FILE], packed[DENSE_FILE], total, group),
        "values": values,
        "dense_values": dense_values,
        "mask": mask,
        "group": group,
        "compression": compress,
    }


def read_bundle(path: Path | str, lazily: bool = False) -> Bundle:
    """Read and check a bundle, which may come from an untrusted place.

    With `lazily`, tensors are unpacked one by one when they are asked for, and only then are their values checked; names,
    sizes, hashes, shapes and dtypes are checked here.

    Raises UserError, naming the file and the reason, for anything that is missing, superfluous, altered or
    inconsistent. The folder must not be written to by another process meanwhile.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    for name, entry in manifest.files.items():
        if entry.unpacked is not None:
            check_installed("zstd", f"{folder / name}: ")
        if _regular_size(folder / name) != entry.bytes:
            size = _regular_size(folder / name)
            raise UserError(f"{folder / name}: {size} bytes, but the manifest says {entry.bytes}")
    loaders: dict[str, Callable[[], Tensor]] = {}
    for file, entry in sorted(manifest.files.items()):
        data = _read_file(folder / file, entry)
        entries = {name: one for name, one in manifest.tensors.items() if one.file == file}
        loaders |= _read_tensors(data, str(folder / file), entries, manifest.sparsity)
    tensors = LazyTensors({name: loaders[name] for name in manifest.tensors})
    return Bundle(manifest, tensors if lazily else dict(tensors))


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


def _manifest(fields: dict[str, Any]) -> Manifest:
    try:
        return Manifest(format=FORMAT, **fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"manifest of a bundle: {error}") from None


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


def _read_file(path: Path, entry: FileEntry) -> npt.NDArray[np.uint8]:
    """The bytes of a file of the size that its entry says, unpacked; they are the ones that were hashed."""
    try:
        data: Any = np.memmap(path, np.uint8, "r") if entry.bytes else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UserError(f"{path}: damaged (its sha256 differs from the manifest)")
    return data if entry.unpacked is None else unpack(data, entry.unpacked, str(path))


def _read_tensors(
    data: npt.NDArray[np.uint8],
    where: str,
    entries: Mapping[str, TensorEntry],
    sparsity: Mapping[str, LayerSparsity],
) -> dict[str, Callable[[], Tensor]]:
    """A function for each tensor of one file that unpacks it; the file's header is compared with the manifest first."""
    # The tensors that the manifest announces.
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}  # name in the file -> dtype, shape
    for name, entry in entries.items():
        if entry.kind == "dense":
            expected[name] = (entry.dtype, tuple(entry.shape))
            continue
        parts = expected_parts(entry.form, entry.shape_out_in, entry.numel - sparsity[name].zeros)
        expected |= {f"{name}.{part}": what for part, what in parts.items()}
    # Compare the header.
    stored = file_tensors(data, where)
    for name in sorted(set(stored) ^ set(expected)):
        raise UserError(f"{where}: tensor {name!r} is {'not in the manifest' if name in stored else 'missing'}")
    for name, (dtype, shape) in expected.items():
        actual = (stored[name][0], stored[name][1].shape)
        if actual != (dtype, actual[1][:1] if shape == ANY_LENGTH else shape):
            raise UserError(f"{where}: tensor {name} is {actual}, but the manifest says {(dtype, shape)}")
    return {
        name: partial(_load, stored, f"{where}: tensor {name}", name, entry, sparsity)
        for name, entry in entries.items()
    }


def _load(
    stored: Mapping[str, Stored], where: str, name: str, entry: TensorEntry, sparsity: Mapping[str, LayerSparsity]
) -> Tensor:
    if entry.kind == "sparse":
        zeros = sparsity[name].zeros
        names = expected_parts(entry.form, entry.shape_out_in, entry.numel - zeros)
        parts = {part: stored[f"{name}.{part}"] for part in names}
        return decode(parts, entry.form, entry.shape_out_in, zeros, where)
    array = stored[name][1]
    if entry.dtype in _FLOATS:
        if not is_finite(array, entry.dtype):
            raise UserError(f"{where}: contains NaN or infinity")
        return widen(array, entry.dtype)
    return array != 0 if entry.dtype == "BOOL" else array.copy()
