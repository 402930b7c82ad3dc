"""Cluster job scheduling (CJS): which stage gets how many executors, decided whenever executors become free."""

import hashlib
from pathlib import Path

import numba
import pooch

COMPILED = ("profiles", "state", "heap", "events", "observation", "rules", "rollout", "environment")


def _cache_folder() -> Path:
    """Numba's own cache notices a change of the file that a function is in, but not of the files whose functions it calls:
    the folder's name is that of all of them together."""
    digest = hashlib.sha256()
    for name in COMPILED:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return Path(pooch.os_cache("edgenetllm")) / "numba" / digest.hexdigest()[:16]


_before = numba.config.CACHE_DIR
numba.config.CACHE_DIR = str(_cache_folder())  # read when a function is decorated
from edgenetllm.tasks.cjs import environment, rollout  # noqa: E402, F401  compiled modules, all that they import included

numba.config.CACHE_DIR = _before
