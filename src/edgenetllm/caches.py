"""The folder of this user for what is only a cache, and a temporary one where that cannot be written to."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from edgenetllm.printable import say

ROOM = 64 * 2**20  # bytes that compiled code needs at most
# Where matplotlib and W&B keep caches and settings of their own: under the same home, which cannot be written to either.
CACHE_VARIABLES = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "NUMBA_CACHE_DIR")


def cache_folder() -> Path:
    """The folder in which compiled code and downloads are kept between runs.

    Where it cannot be written to, or its disk is full, a temporary folder that is removed when this process ends, which is
    said once; processes that it starts use the same one, as XDG_CACHE_HOME names it.
    """
    folder = _usual()
    problem = _problem(folder)
    if problem is None:
        return folder
    temporary = Path(tempfile.mkdtemp(prefix="edgenetllm-"))
    atexit.register(_remove, temporary, os.getpid())
    os.environ["XDG_CACHE_HOME"] = str(temporary)
    for name in CACHE_VARIABLES:
        os.environ.setdefault(name, str(temporary / name.lower()))
    say(f"note: {folder} cannot be used ({problem}); caches are kept in {temporary} for this run", file=sys.stderr)
    return _usual()


def _usual() -> Path:
    """The folder of this user that the operating system has for caches, where `pooch.os_cache` looks too."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(local) / "edgenetllm" / "edgenetllm" / "Cache"
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or usual) / "edgenetllm"


@functools.cache
def _problem(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".room") as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return None if free >= ROOM else f"only {free / 2**20:.0f} MiB are free"


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked
        shutil.rmtree(folder, ignore_errors=True)
