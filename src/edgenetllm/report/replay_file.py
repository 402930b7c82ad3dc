"""`replay.parquet`: one row per decision of every policy, with the task's own record columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edgenetllm.errors import UserError
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.files import write_atomic
from edgenetllm.tasks.names import check_episodes, check_policies

REPLAY_FILE = "replay.parquet"
INDEX = ("policy", "episode", "step")
REQUIRED = ("action", "reward")
NULLABLE = ("return_to_go", "decision_ms")

Columns = Mapping[str, npt.NDArray[np.generic] | RaggedColumn]
Mask = npt.NDArray[np.bool_]


def write_replay(
    path: Path | str,
    rows: Mapping[str, Columns],
    episodes: Sequence[str],
    valid: Mask | Mapping[str, Mask],
) -> None:
    """Write policy -> column -> array (episodes, steps, ...), keeping the steps of the mask `valid` (episodes, steps).

    `valid` may be given per policy, as episodes can differ in length. Every policy has columns action and reward, and
    may have return_to_go and decision_ms, which are null where a policy has none or its value is NaN; the other columns
    are the task's record, the same for all policies. An action of several numbers (episodes, steps, k) becomes a list,
    and so do the values of a RaggedColumn.

    Raises ValueError when columns or shapes do not fit, UserError for names that cannot be told apart or stored.
    """
    check_policies(rows, "the policies of a replay")
    check_episodes(episodes, "the test episodes")
    names = list(dict.fromkeys(name for columns in rows.values() for name in columns))
    record = [name for name in names if name not in REQUIRED + NULLABLE]
    if taken := [name for name in record if name in INDEX]:
        raise UserError(f"replay: the columns {taken} have a meaning of their own: choose other names in record()")
    tables = []
    for policy, columns in rows.items():
        mask = valid[policy] if isinstance(valid, Mapping) else valid
        missing = [name for name in (*REQUIRED, *record) if name not in columns]
        if missing:
            raise ValueError(f"replay of {policy} lacks the columns {missing}")
        if len(episodes) != len(mask):
            raise ValueError(f"replay of {policy} has {len(mask)} episodes, but {len(episodes)} names")
        episode, step = np.nonzero(mask)
        table: dict[str, pa.Array] = {
            "policy": pa.DictionaryArray.from_arrays(np.zeros(len(step), np.int32), [policy]),
            "episode": pa.DictionaryArray.from_arrays(episode.astype(np.int32), list(episodes)),
            "step": pa.array(step.astype(np.int32)),
        }
        for name in (*REQUIRED, *NULLABLE, *record):
            if name not in columns:
                table[name] = pa.nulls(len(step), pa.float64())
                continue
            ragged = columns[name]
            if isinstance(ragged, RaggedColumn):
                table[name] = _lists(ragged, mask)
                continue
            column = np.asarray(ragged)
            if column.shape[:2] != mask.shape:
                raise ValueError(f"replay of {policy}: {name} is {column.shape}, but the mask {mask.shape}")
            table[name] = _array(column[mask], nullable=name in NULLABLE)
        tables.append(pa.table(table))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def _lists(column: RaggedColumn, mask: Mask) -> pa.Array:
    """The values of the steps of `mask`, a list each. Steps outside it have none."""
    if column.count.shape != mask.shape or column.count[~mask].any():
        raise ValueError(f"replay: a ragged column of {column.count.shape} does not fit the mask {mask.shape}")
    offsets = np.r_[0, np.cumsum(column.count[mask])].astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(column.values))


def _array(column: npt.NDArray[np.generic], nullable: bool) -> pa.Array:
    if nullable:
        return pa.array(column.astype(np.float64), from_pandas=True)  # NaN -> null
    if column.ndim == 1:
        return pa.array(column)
    flat = column.reshape(len(column), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def read_replay(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table that `write_replay` wrote, or those of the `columns` that it has.

    Raises UserError when the file is absent, damaged or not a replay.
    """
    try:
        with open(path, "rb") as file:
            names = pq.read_schema(file).names
        chosen = None if columns is None else [name for name in names if name in columns]
        table = pq.read_table(path, memory_map=False, columns=chosen)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a finished run leaves it beside results.json") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from None
    missing = [name for name in (*INDEX, *REQUIRED, *NULLABLE) if name not in names]
    if missing:
        raise UserError(f"{path}: not a replay, the columns {missing} are missing")
    return table
