"""Network traces: one, and many in flat arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Trace:
    """A bandwidth trace: `mbps[i]` holds on (time_s[i-1], time_s[i]]; both (rows,)."""

    name: str
    time_s: npt.NDArray[np.float64]
    mbps: npt.NDArray[np.float64]
    reading: str = ""  # how the columns of its file were understood
    caution: str = ""  # what a reader of the results must know of it


@dataclass(frozen=True)
class TraceSet:
    """Traces one after another: trace i is rows `offsets[i]:offsets[i + 1]`; `starts[i]` is its start row of the protocol."""

    names: tuple[str, ...]
    time_s: npt.NDArray[np.float64]
    mbps: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]  # (traces + 1,)
    starts: npt.NDArray[np.int64]  # (traces,)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Rows of each trace, (traces,)."""
        return np.diff(self.offsets)

    def sha256(self) -> str:
        """Identity of names, samples and start rows."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for column in (self.time_s, self.mbps, self.offsets, self.starts):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def join(traces: Sequence[Trace], starts: npt.NDArray[np.int64]) -> TraceSet:
    """Traces and their start rows (traces,) as one set."""
    rows = np.array([len(trace.time_s) for trace in traces], np.int64)
    if len(starts) != len(rows) or not ((starts >= 1) & (starts < rows)).all():
        raise ValueError("each trace needs a start row between 1 and its last row")
    empty = [np.empty(0)]
    return TraceSet(
        names=tuple(trace.name for trace in traces),
        time_s=np.concatenate(empty + [trace.time_s for trace in traces]),
        mbps=np.concatenate(empty + [trace.mbps for trace in traces]),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)]),
        starts=np.asarray(starts, np.int64),
    )
