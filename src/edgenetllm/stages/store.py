"""Results that several processes may want at the same time: the first one computes, the others wait and find.

What is stored carries a hash. An entry that is half written, damaged or altered counts as absent: this is said, and it is
made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.files import sha256_of, write_json
from edgenetllm.hashed import say_unusable
from edgenetllm.locks import exclusive
from edgenetllm.plain_files import read_json

SEAL = "sha256.json"  # in a stored folder: the hash of every other file


@contextmanager
def reserved_folder(path: Path, doing: str) -> Iterator[bool]:
    """`exclusive` for a folder that is stored once sealed; gives True where it is there already, whole."""
    with exclusive(path, doing):
        yield is_stored(path)


def seal(folder: Path) -> None:
    """Add the hash of every file to a folder that is about to be stored."""
    write_json(folder / SEAL, _hashes(folder))


def is_stored(folder: Path) -> bool:
    """True where a sealed folder exists, whole and as it was written. One that is not is removed, which is said."""
    if not folder.exists():
        return False
    try:
        if read_json(folder / SEAL) == _hashes(folder):
            return True
        reason = "a file was changed after it was stored"
    except (OSError, UserError) as error:
        reason = f"no readable {SEAL} ({error})"
    say_unusable(folder, reason)
    shutil.rmtree(folder)
    return False


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
