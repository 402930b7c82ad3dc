"""Questions to recorded series: rows that are known, and rows that are to be predicted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recording:
    """One recorded series, (rows, columns), evenly spaced in time."""

    name: str
    values: Rows


@dataclass(frozen=True, eq=False)
class Windows:
    """All recordings of a split one after the other, (rows, columns), and the first row of each answer, (questions,)."""

    values: Rows
    starts: npt.NDArray[np.int64]
    names: list[str]  # of the questions: recording and row

    def sha256(self) -> str:
        """A hash of the numbers and of the questions."""
        digest = hashlib.sha256(repr(self.values.shape).encode())
        digest.update(np.ascontiguousarray(self.values).tobytes() + self.starts.tobytes())
        return digest.hexdigest()

    def before(self, rows: int) -> Rows:
        """The rows before each answer, (questions, rows, columns)."""
        return self.values[self.starts[:, None] + np.arange(-rows, 0)]

    def after(self, rows: int) -> Rows:
        """The rows of each answer, (questions, rows, columns)."""
        return self.values[self.starts[:, None] + np.arange(rows)]


def windows_of(
    recordings: Sequence[Recording], history: int, ahead: int, step: int, head: int = 0, tail: int = 0
) -> Windows:
    """A question every `step` rows of each recording, with `history` rows before and `ahead` rows behind its first.

    The first `head` and the last `tail` rows are left to histories and answers alone. A recording that is too short gives no
    question.
    """
    starts, names, offset = [], [], 0
    for recording in recordings:
        rows = len(recording.values)
        own = np.arange(max(head, history), rows - max(tail, ahead) + (tail <= ahead), step, dtype=np.int64)
        starts.append(offset + own)
        names += [f"{recording.name} @{row}" for row in own]
        offset += rows
    empty = np.empty((0, 0))
    values = np.concatenate([recording.values for recording in recordings]) if recordings else empty
    return Windows(values, np.concatenate(starts) if starts else np.empty(0, np.int64), names)


def require_questions(windows: Windows, split: str, data: str, history: int, ahead: int) -> Windows:
    """The same windows. Raises UserError where there is no question at all."""
    if not len(windows.starts):
        raise UserError(
            f"data={data}: no recording of the {split} split has the {history} rows of history and {ahead} rows ahead that a "
            "question needs: choose a shorter data.history or data.horizon"
        )
    return windows
