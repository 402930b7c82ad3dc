"""Files that are either whole or absent: every write goes to a temporary sibling, is flushed, and is then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgenetllm.errors import UserError


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there; a crash leaves the old file or the new one, never a half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def overwrite(path: Path, data: bytes) -> None:
    """Replace the content of a file in its place, where a full disk has no room for a second one. Not atomic."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def write_json(path: Path | str, obj: object) -> None:
    """Write `obj` as indented JSON, atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    write_atomic(path, (json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file as 64 lower-case hex digits, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Fill the yielded temporary folder; it becomes `path` when the block ends, and is removed when the block raises.

    Raises UserError if `path` exists and `overwrite` is False. With `overwrite`, the old folder is moved aside just
    before the rename and deleted just after it; if the rename fails, it is moved back.
    """
    path = Path(path)
    if not overwrite:
        _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        if overwrite:
            _swap(temporary, path)
        else:
            _refuse_existing(path)
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: choose another folder, or remove it first")


def _swap(new: Path, path: Path) -> None:
    old = _sibling(path)
    if os.path.lexists(path):
        os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        if os.path.lexists(old):
            os.rename(old, path)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _sibling(path: Path) -> Path:
    """A new hidden name in the same folder, hence on the same file system: only there a rename is atomic."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
