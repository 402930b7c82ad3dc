"""Results that several processes may want at the same time: the first one computes, the others wait and find."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from edgenetllm.files import write_atomic

Arrays = Mapping[str, npt.NDArray[np.float64]]


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file beside `path`; says so when another process that is `doing` the same has to be waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{doing}: another process does the same ({lock.lock_file}); waiting ...", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def arrays_once(path: Path, compute: Callable[[], Arrays], doing: str) -> dict[str, npt.NDArray[np.float64]]:
    """The arrays stored in `path`, an npz file, computed first where it is not there."""
    with alone(path, doing):
        if not path.is_file():
            buffer = io.BytesIO()
            np.savez(buffer, **compute())  # type: ignore[arg-type]
            write_atomic(path, buffer.getvalue())
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
