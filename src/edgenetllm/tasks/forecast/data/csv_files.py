"""Columns of numbers from CSV files; what cannot be read is named by file, line and column."""

from __future__ import annotations

import csv
import difflib
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.reading import check_size
from edgenetllm.tasks.supervised.data.windows import Rows

MOST_BYTES = 512 << 20  # of all files
MOST_ROWS = 5_000_000
MOST_COLUMNS = 10_000  # of a header
LARGEST = 1e18  # a number beyond it would overflow in float32 arithmetic


@dataclass(frozen=True, eq=False)
class Table:
    """The columns that were asked for, (rows, columns), and of each row its group, None without a column of groups."""

    name: str
    values: Rows
    groups: list[str] | None


def files_of(path: Path) -> list[Path]:
    """The file, or the sorted .csv files of a folder. Raises UserError for none, and for more than `MOST_BYTES`."""
    if not path.exists():
        raise UserError(f"data.path={path}: there is no such file or folder")
    files = sorted(one for one in path.iterdir() if one.suffix.lower() == ".csv") if path.is_dir() else [path]
    if not files:
        raise UserError(f"data.path={path}: the folder has no .csv file")
    if (size := sum(map(_size, files))) > MOST_BYTES:
        raise UserError(
            f"data.path={path}: {size / 2**20:.0f} MiB of text, more than the {MOST_BYTES >> 20} MiB that are read into memory: "
            "thin the rows out, or leave columns away"
        )
    return files


def _size(path: Path) -> int:
    """The bytes of a plain file. Raises UserError for anything else, such as a link that leads nowhere."""
    try:
        check_size(path, sys.maxsize)  # all files together count
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def read_table(path: Path, columns: Sequence[str], group: str | None = None, separator: str = ",") -> Table:
    """These columns of a CSV file with a header.

    Raises UserError, naming line, column and reason, for a file that cannot be read, a header without or with two of one
    name, a row of another length, an empty field, and what is no finite number.
    """
    values, groups = array("d"), []
    wanted = [*columns, *([] if group is None else [group])]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=separator, strict=True)
            places, width = _header(rows, path, wanted)
            numbers = list(zip(columns, places, strict=False))
            for row in rows:
                if not row:  # an empty line
                    continue
                if len(row) != width:
                    raise UserError(f"{path}: line {rows.line_num} has {len(row)} fields, the header has {width}")
                values.extend([_number(row[place], name, path, rows.line_num) for name, place in numbers])
                if group is not None:
                    groups.append(row[places[-1]])
                if len(values) > MOST_ROWS * len(columns):
                    raise UserError(f"{path}: line {rows.line_num}: more than the {MOST_ROWS:,} rows that are read into memory")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num}: not a row of a CSV file ({error})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if not values:
        raise UserError(f"{path}: there is no row below the header")
    return Table(path.stem, np.array(values).reshape(-1, len(columns)), None if group is None else groups)


def _header(rows: Iterator[list[str]], path: Path, wanted: Sequence[str]) -> tuple[list[int], int]:
    """The places of the wanted columns, and the number of columns."""
    header = [name.strip() for name in next(rows, [])]
    if not any(header):
        raise UserError(f"{path}: line 1 is empty, where the names of the columns must be")
    if len(header) > MOST_COLUMNS:
        raise UserError(f"{path}: line 1 names {len(header):,} columns, more than {MOST_COLUMNS:,}")
    places = []
    for name in wanted:
        found = [place for place, other in enumerate(header) if other == name]
        if not found:
            near = difflib.get_close_matches(name, header, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            listed = ", ".join(header[:10]) + (", ..." if len(header) > 10 else "")
            raise UserError(f"{path}: line 1 names no column {name!r}: {hint}there are {listed} (data.separator splits them)")
        if len(found) > 1:
            raise UserError(f"{path}: line 1 names the column {name!r} {len(found)} times: give each a name of its own")
        places.append(found[0])
    return places, len(header)


def _number(text: str, column: str, path: Path, line: int) -> float:
    """The finite number that a field holds."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        stripped = text.strip()
        if not stripped:
            reason = "the field is empty: fill it, or leave the row away"
        elif math.isnan(value):
            reason = f"{stripped[:40]!r} is no finite number"
        else:
            reason = f"{stripped[:40]!r} is infinite or beyond {LARGEST:g}"
        raise UserError(f"{path}: line {line}, column {column}: {reason}")
    return value
