"""Columns with another number of rows in every step, stored without padding and padded again a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.task import Array, Ragged


@dataclass
class RaggedColumn:
    """Rows of all steps of all episodes, one after the other: episode by episode, step by step."""

    values: Array  # (rows, ...)
    count: npt.NDArray[np.int32]  # (episodes, steps)

    def __post_init__(self) -> None:
        ends = np.cumsum(self.count.ravel(), dtype=np.int64)
        self._starts = np.r_[0, ends].astype(np.int64)

    def rows(self, episode: int, start: int, stop: int) -> Array:
        """The rows of the steps [start, stop) of an episode."""
        first = episode * self.count.shape[1]
        return self.values[self._starts[first + start] : self._starts[first + stop]]


def from_steps(steps: Sequence[Ragged]) -> RaggedColumn:
    """A column of the padded observations that a roll-out collected step by step."""
    count = np.stack([step.count for step in steps], 1)
    values = [step.values[_real(step.values, step.count)] for step in steps]  # by step, then episode
    episode = np.concatenate([np.repeat(np.arange(len(step.count)), step.count) for step in steps])
    return RaggedColumn(np.concatenate(values)[np.argsort(episode, kind="stable")], count)


def join(columns: Sequence[RaggedColumn]) -> RaggedColumn:
    """Episodes of several columns, which may differ in steps."""
    steps = max(column.count.shape[1] for column in columns)
    count = [np.pad(column.count, [(0, 0), (0, steps - column.count.shape[1])]) for column in columns]
    return RaggedColumn(np.concatenate([column.values for column in columns]), np.concatenate(count))


def take(column: RaggedColumn, episodes: npt.NDArray[np.int64]) -> RaggedColumn:
    """The episodes with these numbers, in this order."""
    rows = [column.rows(int(episode), 0, column.count.shape[1]) for episode in episodes]
    return RaggedColumn(np.concatenate(rows), column.count[episodes])


def pad(column: RaggedColumn, segments: Sequence[tuple[int, int, int]]) -> Ragged:
    """Segments (episode, start, stop) of equal length as (segments, steps, most rows, ...) and count (segments, steps)."""
    count = np.stack([column.count[episode, start:stop] for episode, start, stop in segments])
    width = max(1, int(count.max(initial=0)))
    values = np.zeros((*count.shape, width, *column.values.shape[1:]), column.values.dtype)
    values[np.arange(width) < count[..., None]] = np.concatenate([column.rows(*segment) for segment in segments])
    return Ragged(values, count)


def _real(values: Array, count: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.arange(values.shape[1]) < count[:, None])
