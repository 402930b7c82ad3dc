"""Compiled code that is kept between processes in this user's cache, without anything that torch needs."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numba
from numba.core.caching import CompileResultCacheImpl, UserProvidedCacheLocator

from edgenetllm.tolerant_cache import TolerantCache, note_unwritable

Function = TypeVar("Function", bound=Callable[..., Any])


def cache_folder() -> Path:
    """This user's cache of EdgeNetLLM by the platform's convention (the folder of pooch.os_cache("edgenetllm"))."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgenetllm"
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
            / "edgenetllm"
            / "edgenetllm"
            / "Cache"
        )
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgenetllm"


@functools.cache
def source_hash() -> str:
    """A hash of all modules of this package: numba notices a change of a function's own file only, not of what it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code_folder() -> Path:
    """Where compiled code is kept: under NUMBA_CACHE_DIR or this user's cache, in a folder named by `source_hash`."""
    return Path(numba.config.CACHE_DIR or cache_folder() / "numba") / f"edge-{source_hash()}"


class CodeFolder(UserProvidedCacheLocator):  # type: ignore[misc]
    """`code_folder` for all functions, whether or not it can be written to; numba would go on to __pycache__."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._lineno, self._cache_path = file, function.__code__.co_firstlineno, str(code_folder())

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> CodeFolder:
        return cls(function, file)


class Results(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: ClassVar = [CodeFolder]


class CodeCache(TolerantCache):
    """The cache of a function in `code_folder`."""

    _impl_class = Results


def cached_njit(**options: Any) -> Callable[[Function], Function]:
    """numba.njit for a function that Python calls: what it calls in turn is kept with it. The GIL is released.

    Any change of this package compiles everything again; numba itself tells processors apart.
    """

    def decorate(function: Function) -> Function:
        compiled = numba.njit(nogil=True, **options)(function)
        try:
            compiled._cache = CodeCache(function)  # what cache=True does, with numba's own class
        except OSError as error:  # the source is not a file
            note_unwritable(str(code_folder()), str(error))
        return compiled  # type: ignore[no-any-return]

    return decorate
