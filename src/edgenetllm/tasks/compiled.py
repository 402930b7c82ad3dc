"""The folder in which numba keeps compiled code of modules that call each other's compiled functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba

from edgenetllm.caches import cache_folder
from edgenetllm.tolerant_cache import TolerantCache, note_unwritable


class Compiler:
    """`numba.njit` for `modules` (files in `folder`, without .py): their cache is one folder, named by the hash of them all.

    Numba's own cache notices a change of the file that a function is in, but not of the files whose functions it calls.
    A cache that cannot be read or written costs a compilation, and is no error.
    """

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self.files = [folder / f"{name}.py" for name in modules]
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        self.cache = str(cache_folder() / "numba" / digest.hexdigest()[:16])

    def __call__(self, *, cache: bool, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """A decorator, as `numba.njit(cache=cache, **options)` is one."""

        def decorate(function: Callable[..., Any]) -> Any:
            compiled = numba.njit(**options)(function)
            before = numba.config.CACHE_DIR
            numba.config.CACHE_DIR = self.cache
            try:
                if cache:
                    compiled._cache = TolerantCache(function)  # as numba does it; it reads its folder now
            except (RuntimeError, OSError) as error:
                note_unwritable(self.cache, str(error))
            finally:
                numba.config.CACHE_DIR = before
            return compiled

        return decorate
