"""Results that several processes may want at the same time: the first one computes, the others wait and find.

What is stored carries a hash. An entry that is half written, damaged or altered counts as absent: this is said, and it is
made again.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgenetllm.arrays_file import read_arrays
from edgenetllm.errors import UserError
from edgenetllm.experience.columns import check_finite
from edgenetllm.files import sha256_of, write_json
from edgenetllm.hashed import say_unusable, store_file, stored_file
from edgenetllm.locks import exclusive
from edgenetllm.plain_files import read_json

Arrays = Mapping[str, npt.NDArray[np.float64]]
SEAL = "sha256.json"  # in a stored folder: the hash of every other file


@contextmanager
def reserved_folder(path: Path, doing: str) -> Iterator[bool]:
    """`exclusive` for a folder that is stored once sealed; gives True where it is there already, whole."""
    with exclusive(path, doing):
        yield is_stored(path)


def seal(folder: Path) -> None:
    """Add the hash of every file to a folder that is about to be stored."""
    write_json(folder / SEAL, _hashes(folder))


def is_stored(folder: Path) -> bool:
    """True where a sealed folder exists, whole and as it was written. One that is not is removed, which is said."""
    if not folder.exists():
        return False
    try:
        if read_json(folder / SEAL) == _hashes(folder):
            return True
        reason = "a file was changed after it was stored"
    except (OSError, UserError) as error:
        reason = f"no readable {SEAL} ({error})"
    say_unusable(folder, reason)
    shutil.rmtree(folder)
    return False


def arrays_once(path: Path, compute: Callable[[], Arrays], doing: str) -> dict[str, npt.NDArray[np.float64]]:
    """The arrays stored in `path`, an npz file, computed first where it is not there."""
    with exclusive(path, doing):
        data = stored_file(path)
        try:
            if data is not None:
                stored = read_arrays(io.BytesIO(data), str(path))
                for name, values in stored.items():
                    check_finite(name, values)
                return stored
        except UserError as error:
            say_unusable(path, str(error))
        arrays = {name: np.asarray(values) for name, values in compute().items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        store_file(path, buffer.getvalue())
    return arrays


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
