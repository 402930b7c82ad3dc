"""Played episodes as the bytes of one npz file (never pickle), without the observations."""

from __future__ import annotations

import io

import numpy as np

from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import Column, Episodes
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
    """The episodes that `pack_episodes` packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        columns = {name: stored[name] for name in stored.files}
    record: dict[str, Column] = {}
    for key, value in columns.items():
        kind, _, name = key.partition(".")
        if kind == "record":
            record[name] = value
        elif kind == "ragged":
            record[name] = RaggedColumn(value, columns[f"count.{name}"])
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
