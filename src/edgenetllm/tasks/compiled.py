"""The folder in which numba keeps compiled code of modules that call each other's compiled functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numba

from edgenetllm.caches import cache_folder


@contextmanager
def cached_together(folder: Path, modules: Sequence[str]) -> Iterator[None]:
    """Import `modules` (files in `folder`, without .py) inside: their cache is one folder, named by the hash of them all.

    Numba's own cache notices a change of the file that a function is in, but not of the files whose functions it calls.
    """
    digest = hashlib.sha256()
    for name in modules:
        digest.update((folder / f"{name}.py").read_bytes())
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder() / "numba" / digest.hexdigest()[:16])
    try:
        yield  # numba reads its folder when a function is decorated
    finally:
        numba.config.CACHE_DIR = before
