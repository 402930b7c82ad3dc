"""The bitrates that a video is offered in, and the seconds of a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
import numpy.typing as npt

LONGEST_CHUNK_S = 20.0  # a third of the buffer's limit (simulator.py)


@dataclass(frozen=True)
class Ladder:
    """Raises ValueError for fewer than two bitrates, for any that do not ascend, and for a chunk of no usual length."""

    bitrates_kbps: tuple[float, ...]  # (levels,), ascending
    chunk_s: float

    def __post_init__(self) -> None:
        rates = self.bitrates_kbps
        if (
            len(rates) < 2
            or not all(isfinite(rate) and rate > 0 for rate in rates)
            or sorted(set(rates)) != list(rates)
        ):
            raise ValueError(f"bitrates_kbps={list(rates)}: give at least two, in kbps, the lowest first")
        if not 0 < self.chunk_s <= LONGEST_CHUNK_S:
            raise ValueError(f"chunk_s={self.chunk_s}: give seconds, at most {LONGEST_CHUNK_S:g}")

    @cached_property
    def mbps(self) -> npt.NDArray[np.float64]:
        """The bitrates in Mbps, (levels,)."""
        return np.array(self.bitrates_kbps) / 1000.0

    @property
    def levels(self) -> int:
        return len(self.bitrates_kbps)

    def __str__(self) -> str:
        return f"{', '.join(f'{rate:g}' for rate in self.bitrates_kbps)} kbps, chunks of {self.chunk_s:g} s"


PUBLIC = Ladder((300, 750, 1200, 1850, 2850, 4300), 4.0)  # of Pensieve, Genet and NetLLM
