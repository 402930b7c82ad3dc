"""A file with its hash next to it: half written, damaged or altered, it counts as absent, which is said."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from edgenetllm.files import write_atomic
from edgenetllm.printable import say


def store_file(path: Path, data: bytes) -> None:
    """Write a file and, after it, its hash: with one of them alone it counts as absent."""
    write_atomic(path, data)
    write_atomic(_hash_file(path), hashlib.sha256(data).hexdigest().encode())


def stored_file(path: Path) -> bytes | None:
    """The bytes that `store_file` wrote; None where there are none, or (which is printed) none that can be trusted."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    hash_file = _hash_file(path)
    if hash_file.is_file() and hash_file.read_bytes() == hashlib.sha256(data).hexdigest().encode():
        return data
    say_unusable(path, "its hash differs" if hash_file.is_file() else "its hash is missing")
    return None


def say_unusable(path: Path, reason: str) -> None:
    say(f"warning: stored before, but damaged or altered, and made again: {path} ({reason})", file=sys.stderr)


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
