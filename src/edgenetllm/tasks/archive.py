"""Plain files of a downloaded tar.gz or tar.xz, read forward, once, and within bounds: what it claims may be anything.

Python's `tarfile` believes a header: it reads names of gigabytes, seeks backwards, and copies what global headers add up to
at every member. Here a header is 512 bytes with a checksum, a long name is short, and the rest is skipped.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from edgenetllm.reading import plain

MOST_MEMBERS = 100_000  # files, folders and whatever else an archive lists
LARGEST_FILE = 16 * 2**20  # bytes of one file that is wanted; of the public traces and job profiles 220 kB
MOST_WANTED = 256 * 2**20  # bytes of all of them
LONGEST_HEADER = 2**16  # bytes of a long name and other extensions of one member
PIECE = 2**16  # bytes that are read at once
# An archive of text and numbers unpacks to five or ten times its size, one of zeros to a thousand times.
MOST_TIMES = 50
SMALLEST_LIMIT = 16 * 2**20  # bytes that any archive may unpack to, however small it is

# The format: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, and GNU tar's long names.
BLOCK = 512
NAME, SIZE, CHECKSUM, KIND, PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157), slice(345, 500)
FILE = (b"0", b"\0", b"7")
LONG_NAME, EXTENSION = b"L", b"x"


class BadArchive(Exception):
    """An archive that cannot be read, or that passes a bound; the message says which."""


class _Member(NamedTuple):
    name: str
    kind: bytes
    size: int


def wanted_members(path: Path, name_of: Callable[[str], str | None]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every plain file that `name_of`, given the name inside the archive, has a name for.

    Links, devices and sparse files are never taken. Raises BadArchive; nothing is written.
    """
    total = 0
    try:
        with (lzma.open if path.suffix == ".xz" else gzip.open)(path, "rb") as opened:
            file = _Forward(opened, max(SMALLEST_LIMIT, MOST_TIMES * path.stat().st_size))
            for member in _members(file):
                name = name_of(member.name) if member.kind in FILE else None
                if name is None:
                    file.skip(member.size)
                    continue
                total += member.size
                if member.size > LARGEST_FILE or total > MOST_WANTED:
                    raise BadArchive(f"its files are larger than any of the data set ({plain(member.name)})")
                yield name, file.content(member.size)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise BadArchive(f"it cannot be unpacked ({plain(str(error), 100)})") from None


def _members(file: _Forward) -> Iterator[_Member]:
    """The members in their order; the content of one is read or skipped before the next is asked for."""
    long_name: str | None = None
    for _ in range(MOST_MEMBERS):
        header = file.read(BLOCK)
        if header == bytes(BLOCK):  # the end
            return
        _check(header)
        kind, size = header[KIND], _octal(header[SIZE])
        if kind in (LONG_NAME, EXTENSION):
            if size > LONGEST_HEADER:
                raise BadArchive("it has a name that is longer than any is")
            text = file.content(size)
            stated = _text(text) if kind == LONG_NAME else _path(text)
            long_name = long_name if stated is None else stated
            continue
        prefix = _text(header[PREFIX]) if header[257:263] == b"ustar\0" else ""
        name = _text(header[NAME])
        yield _Member(long_name or (f"{prefix}/{name}" if prefix else name), kind, size)
        long_name = None
    raise BadArchive(f"it has more than {MOST_MEMBERS:,} members")


def _check(header: bytes) -> None:
    """Raises BadArchive unless the checksum of a header is right; its own eight bytes count as blanks."""
    counted = sum(header) - sum(header[CHECKSUM]) + 8 * ord(" ")
    if _octal(header[CHECKSUM]) != counted:
        raise BadArchive("it is no tar file, or damaged")


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise BadArchive("it has a size that is no number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _path(extension: bytes) -> str | None:
    """The path that the records of an extension state, each `length key=value` and a line's end; None without."""
    path, place = None, 0
    while place < len(extension):
        length, _, _ = extension[place : place + 8].partition(b" ")
        end = place + int(length) if length.isdigit() else place
        key, _, value = extension[place + len(length) + 1 : end].partition(b"=")
        if end <= place or end > len(extension) or not value.endswith(b"\n"):
            raise BadArchive("it has a header that is not understood")
        if key == b"path":
            path = value[:-1].decode("utf-8", "replace")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise BadArchive("it has files larger than any of the data set")
        place = end
    return path


class _Forward:
    """The bytes that an archive unpacks to, forward only and up to a length."""

    def __init__(self, file: gzip.GzipFile | lzma.LZMAFile, most: int) -> None:
        self.file, self.left, self.most = file, most, most

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, at most `PIECE`. Raises BadArchive where there are fewer, or too many in all."""
        self.left -= size
        if self.left < 0:
            raise BadArchive(f"it unpacks to more than {self.most / 2**20:.0f} MiB, {MOST_TIMES} times its size")
        data = self.file.read(size)
        if len(data) != size:
            raise BadArchive("it ends too early")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """A member's content, and what fills its last block."""
        whole = -(-size // BLOCK) * BLOCK
        for begin in range(0, whole, PIECE):
            yield self.read(min(PIECE, whole - begin))

    def content(self, size: int) -> bytes:
        return b"".join(self.pieces(size))[:size]

    def skip(self, size: int) -> None:
        for _ in self.pieces(size):
            pass
