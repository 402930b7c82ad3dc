"""The bitrates that a video is offered in, and the seconds of a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgenetllm.reading import listed, shown

SHORTEST_CHUNK_S = 0.1
LONGEST_CHUNK_S = 20.0  # a third of the buffer's limit (simulator/core.py)
SLOWEST_KBPS, FASTEST_KBPS = 1.0, 1e6  # of a bitrate
MOST_LEVELS = 100


@dataclass(frozen=True)
class Ladder:
    """Raises ValueError for fewer than two bitrates, for any that do not ascend or are out of every player's range, and for
    a chunk of no usual length."""

    bitrates_kbps: tuple[float, ...]  # (levels,), ascending
    chunk_s: float

    def __post_init__(self) -> None:
        rates = self.bitrates_kbps
        in_range = all(SLOWEST_KBPS <= rate <= FASTEST_KBPS for rate in rates)  # no NaN is
        if not 2 <= len(rates) <= MOST_LEVELS or not in_range or sorted(set(rates)) != list(rates):
            raise ValueError(
                f"bitrates_kbps=[{listed(rates)}]: give at least two, in kbps, the lowest first; at most {MOST_LEVELS}, "
                f"each from {SLOWEST_KBPS:g} to {FASTEST_KBPS:g}"
            )
        if not SHORTEST_CHUNK_S <= self.chunk_s <= LONGEST_CHUNK_S:
            raise ValueError(
                f"chunk_s={shown(self.chunk_s)}: give seconds, from {SHORTEST_CHUNK_S:g} to {LONGEST_CHUNK_S:g}"
            )

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
