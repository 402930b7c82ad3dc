"""Answers and errors of forecasts from the rows of a replay, for plots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.float64]


def columns_of(table: pa.Table) -> int:
    """The number of answer columns."""
    return int(table["columns"][0].as_py())


def answers_of(table: pa.Table) -> tuple[Rows, Rows]:
    """The right and the given answers to one question up to the horizon, each (rows, columns)."""
    rows, columns = int(np.sum(table["rows"].to_numpy())), columns_of(table)
    right, given = (_stacked(table, name).reshape(-1, columns)[:rows] for name in ("answer", "action"))
    return right, given


def history_of(table: pa.Table, columns: int) -> Rows:
    """The rows before the answer to one question, (rows, columns) of its inputs."""
    return np.array(table["history"][0].as_py(), np.float64).reshape(-1, columns)


def horizon_errors(table: pa.Table, name: str, columns: int) -> Rows:
    """The mean of a record's errors for each row ahead, (horizon, columns), over the questions of one policy."""
    step, rows = table["step"].to_numpy(), table["rows"].to_numpy()
    errors = []
    for number in range(int(step.max()) + 1):
        own = step == number
        values = _stacked(table.filter(pa.array(own)), name).reshape(int(own.sum()), -1, columns)
        errors.append(values.mean(0)[: int(rows[own][0])])
    return np.concatenate(errors)


def _stacked(table: pa.Table, column: str) -> Rows:
    """A column of lists of equal length, (rows of the table, values)."""
    lists = table[column].combine_chunks()
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(lists), -1)
