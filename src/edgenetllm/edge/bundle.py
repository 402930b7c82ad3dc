"""The folder that travels from cloud to edge: `manifest.json`, `sparse.safetensors` and `dense.safetensors`.

The pruned matrices are in the sparse file (see `encoding.py`), all else in the dense file, so that specialisation on
the edge rewrites only the small one; compressed files end in `.zst`. Nothing here is pickled and nothing is executed:
`read_bundle` checks names, sizes, hashes, shapes, dtypes, zero counts and values before it returns anything, and allocates
nothing that the real sizes of the files do not justify. No torch is needed. `bundle_writer.py` writes them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compression import check_installed, unpack
from edgenetllm.edge.encoding import ANY_LENGTH, decode, expected_parts
from edgenetllm.edge.floats import is_finite, widen
from edgenetllm.edge.manifest import FileEntry, LayerSparsity, Manifest, TensorEntry, from_bytes
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.edge.tensors_file import Stored, file_tensors
from edgenetllm.errors import UserError

MANIFEST = "manifest.json"
SPARSE_FILE = "sparse.safetensors"
DENSE_FILE = "dense.safetensors"
MAX_MANIFEST_BYTES = 16 << 20
Array = npt.NDArray[Any]
Tensor: TypeAlias = Array | QuantisedMatrix
FLOATS = ("F32", "F16", "BF16")


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


def read_bundle(path: Path | str, lazily: bool = False) -> Bundle:
    """Read and check a bundle, which may come from an untrusted place.

    With `lazily`, tensors are unpacked one by one when they are asked for, and only then are their values checked; names,
    sizes, hashes, shapes and dtypes are checked here.

    Raises UserError, naming the file and the reason, for anything that is missing, superfluous, altered or
    inconsistent. The folder must not be written to by another process meanwhile.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        if entry.unpacked is not None:
            check_installed("zstd", f"{folder / name}: ")
        if _regular_size(folder / name) != entry.bytes:
            size = _regular_size(folder / name)
            raise UserError(f"{folder / name}: {size} bytes, but the manifest says {entry.bytes}")
    loaders: dict[str, Callable[[], Tensor]] = {}
    for file, entry in sorted(manifest.files.items()):
        data = read_file(folder / file, entry)
        entries = {name: one for name, one in manifest.tensors.items() if one.file == file}
        loaders |= _read_tensors(data, str(folder / file), entries, manifest.sparsity)
    tensors = LazyTensors({name: loaders[name] for name in manifest.tensors})
    return Bundle(manifest, tensors if lazily else dict(tensors))


def read_manifest(folder: Path) -> Manifest:
    """The checked manifest of a bundle. Raises UserError for a folder whose files are not exactly those that it names."""
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


def read_file(path: Path, entry: FileEntry) -> npt.NDArray[np.uint8]:
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
    if entry.dtype in FLOATS:
        if not is_finite(array, entry.dtype):
            raise UserError(f"{where}: contains NaN or infinity")
        return widen(array, entry.dtype)
    return array != 0 if entry.dtype == "BOOL" else array.copy()
