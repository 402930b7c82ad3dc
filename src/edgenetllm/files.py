"""Files that are either whole or absent: every write goes to a temporary sibling, is flushed, and is then renamed.

A temporary sibling is locked by the process that writes it. One that a killed process left has no lock on it any more:
`remove_abandoned` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgenetllm.errors import UserError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # names that `_claim` gives


def write_atomic(path: Path | str, data: bytes | memoryview, keep: Path | None = None) -> None:
    """Write `data` to `path`, replacing what is there; a crash leaves the old file or the new one, never a half.

    With `keep` the old file is kept under that name, which is in the same folder; for a moment it has only that name. When
    this returns, the new one is on the disk also if the power fails. An OSError names `path`.
    """
    path = Path(path)
    with _naming(path):
        make_folder(path.parent)
        temporary, descriptor = _claim(path, is_folder=False)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
            if keep is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, keep)
            os.replace(temporary, path)
        except BaseException:
            _discard(temporary)
            raise
        finally:
            os.close(descriptor)
        flush(path.parent)


def overwrite(path: Path, data: bytes) -> None:
    """Replace a text in its place by one that is not longer, filled up with spaces: a full disk has room for that.

    Raises OSError for a longer one.
    """
    with open(path, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if len(data) > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        file.write(data.ljust(size))  # one call: a crash leaves the old text or the new one
        os.fsync(file.fileno())


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
    before the rename and deleted just after it; if the rename fails, it is moved back. An OSError without a name gets `path`.
    """
    path = Path(path)
    if not overwrite:
        _refuse_existing(path)
    with temporary_folder(path) as temporary, _naming(path, also_inside=False):
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                flush(Path(folder) / name)
            flush(Path(folder))
        if overwrite:
            _swap(temporary, path)
        else:
            _refuse_existing(path)
            os.rename(temporary, path)
        flush(path.parent)


@contextmanager
def temporary_folder(path: Path | str) -> Iterator[Path]:
    """A hidden folder next to `path`, on the same file system, that is removed when the block ends, if it is still there."""
    path = Path(path)
    make_folder(path.parent)
    temporary, descriptor = _claim(path, is_folder=True)
    try:
        yield temporary
    finally:
        _discard(temporary)
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing; their names are on the disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        flush(folder.parent)


def flush(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, below: bool = False) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`, or with `below` also in those under it.

    Those of a process that lives are locked, and stay. What cannot be removed stays too.
    """
    for path in sorted(folder.rglob(".*.tmp") if below else folder.glob(".*.tmp")):
        if not TEMPORARY.fullmatch(path.name) or path.is_symlink():
            continue
        with contextlib.suppress(OSError):  # another process was faster, or the disk is read-only
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(path)
            finally:
                os.close(descriptor)


def _claim(path: Path, is_folder: bool) -> tuple[Path, int]:
    """A new hidden sibling of `path`, and its descriptor, which locks it until it is closed or this process ends.

    In the same folder, hence on the same file system: only there a rename is atomic.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        if is_folder:
            temporary.mkdir()
        try:
            flags = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            if is_folder and path.parent.is_dir():  # removed as an abandoned one before it was locked
                continue
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it is about to be removed
            os.close(descriptor)
            continue
        except OSError:  # a file system without locks: nobody can lock it to remove it
            return temporary, descriptor
        if os.path.lexists(temporary):
            return temporary, descriptor
        os.close(descriptor)


def _discard(path: Path) -> None:
    """Remove a temporary file or folder, if that is possible: the error on its way up says more."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextmanager
def _naming(path: Path, also_inside: bool = True) -> Iterator[None]:
    """Inside, an OSError is one of `path`: a full disk has no name, and that of a temporary file says nothing."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (also_inside or error.filename is None):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: choose another folder, or remove it first")


def _swap(new: Path, path: Path) -> None:
    """Rename `new` to `path`, and remove what was there."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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
