"""Files of data, read within bounds: no more bytes than a limit, text in UTF-8, strict JSON, and words from them in errors.

What a file holds may come from anybody: an error quotes it short, and without characters that a terminal would obey.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgenetllm.errors import UserError
from edgenetllm.printable import single_line


def read_bytes(path: Path, largest: int) -> bytes:
    """A plain file of at most `largest` bytes. Raises UserError that names it for anything else."""
    try:
        with path.open("rb") as file:
            check_size(path, largest)
            data = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > largest:  # it has grown since
        raise _too_large(path, largest)
    return data


def read_text(path: Path, largest: int) -> str:
    """A text in UTF-8 of at most `largest` bytes, without a byte-order mark. Raises UserError as `read_bytes` does."""
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None


def read_lines(path: Path, largest: int, longest: int = 100_000) -> Iterator[str]:
    """The lines of a text as `read_text` takes it, one after another, each of at most `longest` characters."""
    try:
        check_size(path, largest)
        with path.open(encoding="utf-8-sig") as file:
            number = 1
            while line := file.readline(longest + 2):
                if len(line) > longest + 1:
                    raise UserError(f"{path}, line {number}: longer than {longest:,} characters")
                yield line.rstrip("\n")
                number += 1
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None


def read_json(path: Path, largest: int) -> Any:
    """The content of a JSON file. Raises UserError as `read_text` does, also for a key that stands twice, and NaN."""
    text = read_text(path, largest)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}: not JSON that can be read, as it is nested too deep") from None
    except ValueError as error:  # of a hook, or a number with thousands of digits
        raise UserError(f"{path}: {plain(str(error), 200)}") from None


def check_size(path: Path, largest: int) -> None:
    """Raises UserError unless the file is a plain one of at most `largest` bytes, OSError where it cannot be looked at."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a plain file")
    if status.st_size > largest:
        raise _too_large(path, largest)


def shown(value: object, longest: int = 60) -> str:
    """A value as an error quotes it: its `repr`, cut off behind `longest` characters."""
    if isinstance(value, str | bytes):
        value = value[: longest + 1]
    elif isinstance(value, int) and abs(value) >= 10**longest:
        return f"a number of more than {longest} digits"
    text = repr(value) if isinstance(value, str | bytes | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}..."


def plain(text: str, longest: int = 60) -> str:
    """A text as an error names it, without quotes: unprintable characters escaped, cut off behind `longest` characters."""
    escaped = single_line(text[: longest + 1])
    return escaped if len(escaped) <= longest else f"{escaped[:longest]}..."


def listed(names: Iterable[object], most: int = 12, mark: str = ", ") -> str:
    """Names as an error lists them, with a mark between, no more than `most` of them."""
    texts = [plain(str(name), 40) for name in names]
    return mark.join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _too_large(path: Path, largest: int) -> UserError:
    return UserError(f"{path} is larger than {largest / 2**20:g} MiB, the most that is read of such a file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} stands twice in one object")
            seen.add(key)
    return content


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
