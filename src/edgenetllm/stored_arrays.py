"""Arrays of numbers that are computed once and stored; several processes may want them at the same time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgenetllm.arrays_file import Array, read_arrays
from edgenetllm.errors import UserError
from edgenetllm.hashed import say_unusable, store_file, stored_file
from edgenetllm.locks import exclusive


def arrays_once(path: Path, compute: Callable[[], Mapping[str, Array]], doing: str) -> dict[str, Array]:
    """The arrays stored in `path`, an npz file, computed first where it is not there.

    A file that is damaged, altered or holds numbers that are not finite is made again, which is printed.
    """
    with exclusive(path, doing):
        data = stored_file(path)
        try:
            if data is not None:
                return _finite(read_arrays(io.BytesIO(data), str(path)))
        except UserError as error:
            say_unusable(path, str(error))
        arrays = {name: np.asarray(values) for name, values in compute().items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        store_file(path, buffer.getvalue())
    return arrays


def _finite(arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays themselves. Raises UserError for NaN and infinity."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise UserError(f"array {name} holds a number that is not finite")
    return arrays
