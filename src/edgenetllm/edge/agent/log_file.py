"""A file of a decision log while it is written: it gets its name when it is whole, and a crash loses no whole line of it.

The open file is `.decisions-<time>-<random>.part`, locked by its process. `publish` flushes it to the disk and renames it to
`decisions-<time>-<random>.jsonl`, which nothing changes afterwards. A process that dies leaves its open file, and no lock on
it: `recover` publishes it up to its last whole line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

PART, PUBLISHED = ".part", ".jsonl"


class LogFile:
    """An open file of whole lines. Raises OSError, as its methods do, where the disk does not take it."""

    def __init__(self, folder: Path) -> None:
        while True:
            name = f"decisions-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}"
            self.path, self.published = folder / f".{name}{PART}", folder / f"{name}{PUBLISHED}"
            self.descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o644)
            if _lock(self.descriptor) and os.fstat(self.descriptor).st_nlink:
                break
            os.close(self.descriptor)  # another process took it for an abandoned one before it was locked
        self.size, self.since = 0, time.monotonic()

    def append(self, line: bytes) -> None:
        """Write a line, all of it or nothing."""
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self.descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(line)

    def publish(self) -> None:
        """Flush the file to the disk, give it its name and close it; without a line it is removed."""
        try:
            if self.size:
                os.fsync(self.descriptor)
                os.rename(self.path, self.published)
                _sync_folder(self.path.parent)
            else:
                os.unlink(self.path)
        finally:
            os.close(self.descriptor)


def recover(folder: Path) -> list[Path]:
    """Publish the files that dead processes left open, up to their last whole line; returns them, without empty ones."""
    recovered = []
    for path in sorted(folder.glob(f".decisions-*{PART}")):
        with contextlib.suppress(FileNotFoundError):  # another process has just recovered it
            descriptor = os.open(path, os.O_RDWR)
            try:
                if not _lock(descriptor) or not os.fstat(descriptor).st_nlink:
                    continue
                published = path.with_name(path.name[1:].removesuffix(PART) + PUBLISHED)
                size = _whole_lines(path.read_bytes())
                if size:
                    os.ftruncate(descriptor, size)
                    os.fsync(descriptor)
                    os.rename(path, published)
                    _sync_folder(folder)
                    recovered.append(published)
                else:
                    os.unlink(path)
            finally:
                os.close(descriptor)
    return recovered


def _whole_lines(data: bytes) -> int:
    """Bytes up to the end of the last whole line; after a loss of power, zeros may follow."""
    zeros = data.find(b"\0")
    return data.rfind(b"\n", 0, len(data) if zeros < 0 else zeros) + 1


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or its process ends; False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
