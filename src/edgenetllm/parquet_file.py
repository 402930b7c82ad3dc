"""Tables in parquet files, read within bounds that follow from the size of the file, and columns of numbers that are some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgenetllm.errors import UserError
from edgenetllm.parquet_footer import claimed

COLUMNS = 1000
DENSEST = 200  # times that a table in memory may be larger than its file
SMALL = 64 * 2**20  # bytes in memory that any file may take
LARGEST_NUMBER = 1e100  # whose differences and squares are numbers too


def open_parquet(path: Path | str) -> pq.ParquetFile:
    """A parquet file, open, whose rows and values fit its size.

    Raises UserError, naming it, for one that is absent or damaged, or that claims more than it can hold.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: not a file" if path.exists() else f"{path}: no such file")
    try:
        columns, rows, size = claimed(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    if columns > COLUMNS or size > max(SMALL, DENSEST * path.stat().st_size):
        raise UserError(f"{path}: it claims {rows:,} rows in {columns:,} columns, more than a file of its size holds")
    try:
        return pq.ParquetFile(path)
    except Exception as error:  # whatever Arrow makes of bytes that are no parquet file
        raise damaged(path, error) from None


def read_table(path: Path | str, columns: Sequence[str], advice: str) -> pa.Table:
    """The table in a parquet file. Raises UserError for one that is absent (with `advice`), damaged, or lacks a column."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; {advice}")
    with open_parquet(path) as file:
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise UserError(f"{path}: not the file of a run, the columns {missing} are missing")
        if len(set(file.schema_arrow.names)) < len(file.schema_arrow.names):
            raise UserError(f"{path}: two of its columns have one name")
        try:
            table = file.read(use_threads=False)
            table.validate(full=True)
        except Exception as error:  # a damaged page, a text that is none
            raise damaged(Path(path), error) from None
    return table


def texts(table: pa.Table, name: str, path: Path | str) -> list[str]:
    """A column of texts. Raises UserError, naming file, column and row, where one is missing or no text."""
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{path}: column {name} is {kind!s:.40}, not texts")
    values: list[Any] = column.to_pylist()
    if None in values:
        raise UserError(f"{path}: column {name}, row {values.index(None)}: a text is missing")
    return values


def truths(table: pa.Table, name: str, path: Path | str) -> npt.NDArray[np.bool_]:
    """A column of truth values, (rows,). Raises UserError, naming file and column, for any other."""
    column = table[name]
    if not pa.types.is_boolean(column.type) or column.null_count:
        raise UserError(f"{path}: column {name} is {column.type!s:.40}, or lacks a value, and not true or false")
    return np.array(column.to_pylist(), dtype=bool)


def numbers(
    table: pa.Table, name: str, path: Path | str, may_lack: bool = False, lists: bool = False
) -> npt.NDArray[np.float64]:
    """A column of numbers, (rows,); NaN where one is missing, if some may. With `lists` also those of its lists, (values,).

    Raises UserError, naming file, column and row, where one is missing, NaN, infinite or beyond all bounds, and for a column
    of other values.
    """
    column = table[name].combine_chunks()
    while lists and (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        column = column.flatten()
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise UserError(f"{path}: column {name:.60} is {kind!s:.40}, not numbers")
    missing = np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False), dtype=bool)
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    wrong = ~(np.abs(values) < LARGEST_NUMBER) & ~(missing & may_lack)
    if wrong.any():
        row = int(wrong.argmax())
        value = "missing" if missing[row] else values[row]
        raise UserError(f"{path}: column {name:.60}, row {row}: the number is {value}")
    return values


def damaged(path: Path, error: Exception) -> UserError:
    """The error of a file of which Arrow raised one."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return UserError(f"{path}: not a readable parquet file: {reason:.200}")
