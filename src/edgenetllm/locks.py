"""Results that several processes may want at the same time: the first one computes, the others wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgenetllm.files import make_folder, remove_abandoned
from edgenetllm.printable import say

SILENT_S = 1.0  # of waiting


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file next to `path`; says so when another process that is `doing` the same has to be waited for.

    Temporary files that killed processes left in this folder are removed.
    """
    make_folder(path.parent)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=SILENT_S)
    except Timeout:
        say(f"{doing}: another process does the same ({lock.lock_file}); waiting ...")
        lock.acquire()
    try:
        remove_abandoned(path.parent)
        yield
    finally:
        lock.release()
