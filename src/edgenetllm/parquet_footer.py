"""How many values a parquet file claims to hold, from the footer alone: Apache Thrift's compact protocol, read within bounds.

Arrow says it too, but ends the process for some damaged footers (pyarrow 26: sizes that do not fit the levels of a column).
The ids of the fields are those of parquet.thrift (https://github.com/apache/parquet-format).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
LARGEST = 2**20  # bytes of a footer
DEEPEST = 16  # structures within structures
# Ids of fields.
ROW_GROUPS, ROWS = 4, 3  # of a file
COLUMNS, ROWS_OF_GROUP = 1, 3  # of a row group
META_DATA = 3  # of a column in a row group
VALUES, UNCOMPRESSED = 5, 6  # of its meta data

Claim = tuple[int, int, int]  # columns, rows, bytes in memory


def claimed(path: Path) -> Claim:
    """Columns (the most in a row group), rows and bytes that the values of a file take, as its footer says.

    Raises ValueError for a footer that is none, too large, or says it in another way.
    """
    footer = _footer(path)
    try:
        file, _ = _struct(footer, 0, 0)
        groups = [_fields(group) for group in file.get(ROW_GROUPS, [])]
        chunks = [[_fields(_fields(chunk)[META_DATA]) for chunk in group.get(COLUMNS, [])] for group in groups]
        size = sum(max(8 * _count(one[VALUES]), _count(one[UNCOMPRESSED])) for group in chunks for one in group)
        rows = sum(_count(group[ROWS_OF_GROUP]) for group in groups)
        if rows != file[ROWS]:
            raise ValueError(f"its groups have {rows:,} rows, and not as many as the file says")
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"its footer is damaged ({type(error).__name__})") from None
    return max(map(len, chunks), default=0), rows, size


def _footer(path: Path) -> bytes:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != MAGIC or not 0 < length <= min(LARGEST, size - 12):
            raise ValueError("it has no footer")
        file.seek(size - 8 - length)
        return file.read(length)


def _fields(value: Any) -> dict[int, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError("it claims a number of values that is none")
    return value


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Field id -> value, and where the structure ends."""
    if depth > DEEPEST:
        raise ValueError("its footer is nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        kind = head & 15
        if kind in (1, 2):  # truth values have no bytes of their own here
            fields[number] = kind == 1
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == 8:
        length, at = _varint(data, at)
        if at + length > len(data):
            raise IndexError
        return data[at : at + length], at + length
    if kind in (9, 10):
        return _list(data, at, depth)
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError(f"its footer has a field of kind {kind}")  # a map, which parquet does not use


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    if count > len(data):
        raise IndexError
    values = []
    for _ in range(count):
        value, at = _value(data, at, kind, depth)
        values.append(value)
    return values, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("its footer has a number of more than 64 bits")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
