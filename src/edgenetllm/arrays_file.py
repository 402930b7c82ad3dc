"""Arrays of numbers in an npz file, read without pickle and only as large as the file says and is."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from edgenetllm.errors import UserError

Array = np.ndarray[Any, Any]
ENTRIES = 1000  # arrays in a file
LARGEST = 4 * 2**30  # bytes of all arrays of a compressed file; of one that is not compressed, those of the file
DENSEST = 100  # times that compressed arrays may be larger than their file
SMALL = 64 * 2**20  # bytes that they may have in any case
DIMENSIONS = 8
HEADER = 10_000  # bytes of the description of an array


def read_arrays(source: Path | BinaryIO, where: str) -> dict[str, Array]:
    """Name -> array of an npz file, writable. Raises UserError, naming `where`, for anything else, and for other kinds than
    numbers and truth values."""
    try:
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            _check_entries(entries, size)
            return {entry.filename.removesuffix(".npy"): _read(archive, entry) for entry in entries}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # readers of zip files and headers raise anything for bytes that are neither
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{where}: not a readable npz file ({reason:.200})") from None


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises UserError for names that occur twice, and for entries that claim more bytes than the file can hold."""
    names = [entry.filename for entry in entries]
    if len(names) > ENTRIES or len(set(names)) < len(names):
        raise UserError(f"{len(names):,} arrays, of which each needs a name of its own")
    kinds = {entry.compress_type for entry in entries}
    if not kinds <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UserError("an array is compressed in a way that numpy does not write")
    most = size if zipfile.ZIP_DEFLATED not in kinds else min(LARGEST, max(SMALL, DENSEST * size))
    if sum(entry.file_size for entry in entries) > most:
        raise UserError("its arrays claim more bytes than the file can hold")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    """One array, the bytes of which are all there and no more."""
    name = f"array {entry.filename.removesuffix('.npy'):.60}"
    with archive.open(entry) as file:
        shape, fortran_order, dtype = _header(file)
        if dtype.kind not in "biuf" or dtype.hasobject or dtype.shape or not dtype.isnative:
            raise UserError(f"{name} has values of type {dtype!s:.40}, not numbers")
        if len(shape) > DIMENSIONS or any(length < 0 for length in shape):
            raise UserError(f"{name} has the shape {shape!s:.60}")
        count = 1
        for length in shape:
            count *= length
        if count * dtype.itemsize != entry.file_size - file.tell():
            raise UserError(f"{name} of shape {shape!s:.60} does not fit its {entry.file_size:,} bytes")
        array = np.empty(shape, dtype, order="F" if fortran_order else "C")
        rest = memoryview(array.reshape(-1, order="A").view(np.uint8).data if count else b"")
        while rest:
            read = file.readinto(rest)  # type: ignore[attr-defined]
            if not read:
                raise UserError(f"{name} ends before its last number")
            rest = rest[read:]
        file.read(1)  # at the end its checksum is compared
    return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise UserError(f"an array of version {version}, which numpy writes for other values than numbers")
    return readers[version](file, max_header_size=HEADER)
