"""A disk that does not take what is written to it: full, read-only, failing. One sentence, with folder and room."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.files import TEMPORARY

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAILING = (errno.EIO, errno.EROFS, errno.ENODEV, errno.ESTALE)
REFUSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)  # of something that has a name
RUST = re.compile(r"\(os error (\d+)\)")  # safetensors
# Libraries that write files themselves, or in other processes, without the number of an error: torch, joblib.
TEXTS = {os.strerror(number): number for number in (*FULL, *FAILING)}
TORCH = ("PytorchStreamWriter failed", "inline_container")
OPTIONS = "paths.log_dir=, paths.cache_dir= and paths.data_dir="


class DiskError(UserError):
    """A file could not be written; the message names the folder and the room that is left there."""


@contextmanager
def explained(folders: Iterable[Path], go_on: Callable[[], str]) -> Iterator[None]:
    """Inside, an error of the disk becomes a DiskError.

    The room in `folders` is said where the error does not name a file; `go_on` says what to type when there is room.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (sentence := explain_disk(error, folders, go_on())) is None:
            raise
        raise DiskError(sentence) from error


def explain_disk(
    error: BaseException, folders: Iterable[Path] = (), go_on: str = "type the command again"
) -> str | None:
    """One sentence where a file could not be written, None for any other error; the arguments are those of `explained`."""
    cause: BaseException | None = error
    while cause is not None:
        number, path = _number(cause), _path(cause)
        if number is not None and (number not in REFUSED or path is not None):
            break
        cause = cause.__cause__ or cause.__context__
    else:
        return None
    # What and where it was, and how much room there is.
    reason = os.strerror(number) if number else "a file could not be written"
    rooms = [room(folder) for folder in ([path] if path is not None else _on_different_disks(folders))]
    sentence = f"{path}: {reason}" if path is not None else reason
    sentence += f" ({'; '.join(rooms)})" if rooms else ""
    if number in FULL or number == 0:
        return f"{sentence}: make room, then {go_on}, or choose another disk with {OPTIONS}"
    return f"{sentence}: the folders that are written to are set by {OPTIONS}; when it can be written to, {go_on}"


def room(path: Path) -> str:
    """`1.2 GB of 64.0 GB free in /folder`, the folder of a file, or the one above that is there."""
    folder = _there(path)
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return f"{folder} cannot be asked how much is free: {error.strerror}"
    return f"{_size(usage.free)} of {_size(usage.total)} free in {folder}"


def _size(count: float) -> str:
    """`0 B`, `1.2 GB`."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(4, int(math.log(count, 1000)))
    return f"{count / 1000**power:.1f} {' kMGT'[power]}B"


def _number(error: BaseException) -> int | None:
    """The number of an error of the disk; 0 where a library does not say which one, None for another error."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in (*FULL, *FAILING, *REFUSED) else None
    if (rust := RUST.search(text)) and int(rust[1]) in (*FULL, *FAILING, *REFUSED):
        return int(rust[1])
    named = next((number for words, number in TEXTS.items() if words in text), None)
    return 0 if named is None and any(words in text for words in TORCH) else named


def _path(error: BaseException) -> Path | None:
    """The file that an error names, of a temporary one the folder; of two the second, to which the first was copied."""
    name = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    if not isinstance(name, str | bytes):
        return None
    path = Path(os.fsdecode(name))
    hidden = next((number for number, part in enumerate(path.parts) if TEMPORARY.fullmatch(part)), None)
    return path if hidden is None else Path(*path.parts[:hidden])


def _on_different_disks(folders: Iterable[Path]) -> list[Path]:
    """The folders, of each disk one."""
    disks: dict[int, Path] = {}
    for folder in folders:
        there = _there(folder)
        disks.setdefault(there.stat().st_dev, there)
    return list(disks.values())


def _there(path: Path) -> Path:
    """The folder, or the first one above a path that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents, Path("/")) if os.path.isdir(one))
