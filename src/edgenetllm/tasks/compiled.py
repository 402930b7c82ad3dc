"""The folder in which numba keeps compiled code of modules that call each other's compiled functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba

from edgenetllm.caches import cache_folder


class Compiler:
    """`numba.njit` for `modules` (files in `folder`, without .py): their cache is one folder, named by the hash of them all.

    Numba's own cache notices a change of the file that a function is in, but not of the files whose functions it calls.
    """

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self.files = [folder / f"{name}.py" for name in modules]
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        self.cache = str(cache_folder() / "numba" / digest.hexdigest()[:16])

    def __call__(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """A decorator, as `numba.njit(**options)` is one."""

        def decorate(function: Callable[..., Any]) -> Any:
            before = numba.config.CACHE_DIR
            numba.config.CACHE_DIR = self.cache
            try:
                return numba.njit(**options)(function)  # numba reads its folder when a function is decorated
            finally:
                numba.config.CACHE_DIR = before

        return decorate
