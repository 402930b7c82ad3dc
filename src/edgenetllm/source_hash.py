"""The version of code that a stored result depends on: a hash of the source files themselves."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@functools.cache
def source_hash(*parts: str) -> str:
    """Of the source files and shipped weights in `parts`, files or folders of this package such as `tasks/abr`."""
    digest = hashlib.sha256()
    for part in parts:
        if not (PACKAGE / part).exists():
            raise FileNotFoundError(PACKAGE / part)
        for path in sorted([PACKAGE / part, *(PACKAGE / part).rglob("*")]):
            if path.suffix in (".py", ".json", ".safetensors"):
                digest.update(str(path.relative_to(PACKAGE)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
