"""The header and the rows of a CSV, as they are read."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from edgenetllm.tasks.abr.data.limits import text_lines
from edgenetllm.tasks.abr.data.rows import is_number, refuse

Row = tuple[int, list[str]]  # line number from 1, and values


def split_csv(path: Path) -> tuple[Row | None, Iterator[Row]]:
    """Header, if there is one, and rows, without blank lines and comments. A comment above the rows may be the header.

    Raises UserError with file and line for what is no CSV, also while the rows are taken.
    """
    # The first row, and the last comment above it.
    comment: Row | None = None
    rows = csv_cells(path, text_lines(path), _delimiter(path), strict=True)
    first: Row | None = None
    for line, cells in rows:
        if not cells[0].startswith("#"):
            first = line, cells
            break
        comment = line, [cells[0].lstrip("# "), *cells[1:]]
    data = ((line, cells) for line, cells in rows if not cells[0].startswith("#"))
    # Which of the two is the header.
    if first is None:
        return None, iter(())
    if not any(map(is_number, first[1])):
        return first, data
    named = comment and len(comment[1]) == len(first[1]) > 1 and not any(map(is_number, comment[1]))
    return (comment if named else None), chain([first], data)


def csv_cells(path: Path, lines: Iterable[str], delimiter: str, strict: bool) -> Iterator[Row]:
    """Rows that are not blank, comments among them. Raises UserError with file and line for what is no CSV."""
    parsed = csv.reader(lines, delimiter=delimiter, strict=strict)
    try:
        for fields in parsed:
            cells = [cell.strip() for cell in fields]
            if any(cells):
                yield parsed.line_num, cells
    except csv.Error as error:
        refuse(path, parsed.line_num, f"not a CSV ({error})")


def _delimiter(path: Path) -> str:
    """The mark between the values of the first line with data."""
    lines = (text for text in text_lines(path) if text.strip() and not text.lstrip().startswith("#"))
    unquoted = re.sub(r'"[^"]*"', "", next(lines, ""))
    return next((mark for mark in (";", "\t") if mark in unquoted), ",")
