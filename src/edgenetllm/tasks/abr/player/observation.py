"""The simulator's own observation of a session, made of what the player reports before each decision.

A report says of the chunk that has just arrived: its index and quality, its bytes, the seconds from its request to its last
byte, the seconds that playback stood still since the report before, and the seconds of video in the buffer now. With that
every policy of the task plays in the player as it does in the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.protocol import PAST
from edgenetllm.tasks.abr.simulator.qoe import QoE
from edgenetllm.tasks.observation import Observation

MOST_SECONDS = 86_400.0  # of anything that a report says
NUMBERS = {"delay_s": 1e-6, "buffer_s": 0.0, "rebuffer_s": 0.0}  # the least of each


@dataclass(frozen=True)
class Report:
    """The chunk that has just arrived, as the player saw it."""

    chunk: int
    last_quality: int
    bytes: int
    delay_s: float
    buffer_s: float
    rebuffer_s: float


def read_report(fields: Any) -> Report:
    """A report from JSON. Raises ValueError with a sentence on the field that is not understood."""
    if not isinstance(fields, Mapping):
        raise ValueError("a report is an object")
    for name in ("chunk", "last_quality", "bytes"):
        if type(fields.get(name)) is not int or fields[name] < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, is {fields.get(name)!r:.40}")
    for name, least in NUMBERS.items():
        value: Any = fields.get(name)
        if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= MOST_SECONDS:
            raise ValueError(f"{name} must be seconds from {least:g} to {MOST_SECONDS:g}, is {value!r:.40}")
    return Report(**{name: fields[name] for name in Report.__dataclass_fields__})


def read_times(fields: Mapping[str, Any]) -> dict[str, float]:
    """The player's own times, for the record alone: no policy sees them. Both are 0 where it says nothing.

    waited_s: from the arrival of the chunk before (or from when its buffer was no longer full) to the request of this chunk.
    lag_s: from the arrival of this chunk to the report on it. Raises ValueError for a value that is not understood.
    """
    for name in ("waited_s", "lag_s"):
        value: Any = fields.get(name, 0.0)
        if type(value) not in (int, float) or not 0.0 <= value <= MOST_SECONDS:
            raise ValueError(f"{name} must be seconds from 0 to {MOST_SECONDS:g}, is {value!r:.40}")
    return {name: float(fields.get(name, 0.0)) for name in ("waited_s", "lag_s")}


class View:
    """The state of one session: `see` takes its reports in turn.

    sizes: bytes of the video, (levels, chunks). video: its number in the task's environment.
    """

    def __init__(self, sizes: npt.NDArray[np.int64], qoe: QoE, video: int = 0) -> None:
        self.sizes, self.qoe, self.video = sizes, qoe, video
        self.chunks = sizes.shape[1]
        self.reports: list[Report] = []
        self._past_mbps, self._past_delay_s = np.zeros(PAST), np.zeros(PAST)

    def see(self, report: Report) -> tuple[Observation, float]:
        """The observation (arrays of one episode) after this report, and the reward of its chunk.

        Raises ValueError, changing nothing, for another chunk than the next one, or one that is not of the video.
        """
        if report.chunk != len(self.reports) or report.chunk >= self.chunks:
            raise ValueError(f"chunk {report.chunk} is reported, but {len(self.reports)} is the next of {self.chunks}")
        if report.last_quality >= len(self.sizes):
            raise ValueError(f"last_quality is {report.last_quality}, but the video has {len(self.sizes)} levels")
        if report.bytes != self.sizes[report.last_quality, report.chunk]:
            expected = self.sizes[report.last_quality, report.chunk]
            raise ValueError(f"chunk {report.chunk} came with {report.bytes} bytes, but has {expected}")
        before = self.reports[-1].last_quality if self.reports else 0
        self.reports.append(report)
        mbps = report.bytes * 8 / 1e6 / report.delay_s
        self._past_mbps = np.append(self._past_mbps[1:], mbps)
        self._past_delay_s = np.append(self._past_delay_s[1:], report.delay_s)
        level, last = np.array([report.last_quality]), np.array([before])
        reward = self.qoe.reward(level, last, np.array([report.rebuffer_s]))
        return self._observation(report), float(reward[0])

    def _observation(self, report: Report) -> Observation:
        following = report.chunk + 1
        sizes = self.sizes[:, following] / 1e6 if following < self.chunks else np.zeros(len(self.sizes))
        return {
            "last_quality": np.array([report.last_quality]),
            "buffer_s": np.array([report.buffer_s], np.float64),
            "throughput_mbps": self._past_mbps[-1:].copy(),
            "delay_s": np.array([report.delay_s], np.float64),
            "rebuffer_s": np.array([report.rebuffer_s], np.float64),
            "next_sizes_mb": sizes[None],
            "chunks_left": np.array([self.chunks - following]),
            "chunk_index": np.array([following]),
            "video": np.array([self.video]),
            "past_throughput_mbps": self._past_mbps[None].copy(),
            "past_delay_s": self._past_delay_s[None].copy(),
        }
