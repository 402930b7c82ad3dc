"""Played episodes as the bytes of one npz file (never pickle), without the observations."""

from __future__ import annotations

import io

import numpy as np

from edgenetllm.arrays_file import read_arrays
from edgenetllm.errors import UserError
from edgenetllm.experience.columns import take_columns
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import Episodes
from edgenetllm.tasks.task import Array


def pack_episodes(episodes: Episodes) -> bytes:
    """The file's bytes, from which `unpack_episodes` makes the same episodes."""
    columns: dict[str, Array] = {name: getattr(episodes, name) for name in ("action", "reward", "valid", "decision_ms")}
    if episodes.return_to_go is not None:
        columns["return_to_go"] = episodes.return_to_go
    for name, column in episodes.record.items():
        if isinstance(column, RaggedColumn):
            columns[f"ragged.{name}"], columns[f"count.{name}"] = column.values, column.count
        else:
            columns[f"record.{name}"] = column
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_episodes(data: bytes) -> Episodes:
    """The episodes that `pack_episodes` packed. Raises UserError for other bytes, naming the column that is wrong."""
    columns = read_arrays(io.BytesIO(data), "stored episodes")
    record = take_columns(columns, "record", {"return_to_go": ("f", 2), "decision_ms": ("f", 1)})
    if "decision_ms" not in columns:
        raise UserError("column decision_ms is missing")
    return Episodes(
        observation={},
        action=columns["action"],
        reward=columns["reward"],
        valid=columns["valid"],
        record=record,
        target=None,
        return_to_go=columns.get("return_to_go"),
        decision_ms=columns["decision_ms"],
    )
