"""Compiled code that is kept between processes in this user's cache, without anything that torch needs."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

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


def cached_njit(**options: Any) -> Callable[[Function], Function]:
    """numba.njit for a function that Python calls: what it calls in turn is kept with it. The GIL is released.

    The code is kept under NUMBA_CACHE_DIR or this user's cache, in a folder that is named by `source_hash`, so that any
    change of this package compiles everything again; numba itself tells processors apart.
    """

    def decorate(function: Function) -> Function:
        compiled = numba.njit(nogil=True, **options)(function)
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(Path(before or cache_folder() / "numba") / f"edge-{source_hash()}")
        try:
            compiled._cache = TolerantCache(function)  # what cache=True does, with numba's own class
        except (RuntimeError, OSError) as error:
            note_unwritable(numba.config.CACHE_DIR, str(error))
        finally:
            numba.config.CACHE_DIR = before
        return compiled  # type: ignore[no-any-return]

    return decorate
