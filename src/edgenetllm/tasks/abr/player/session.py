"""One session of a policy in the player: its clock, its link, its decisions, and the record of its chunks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.data.ladder import Ladder
from edgenetllm.tasks.abr.player.link import Link
from edgenetllm.tasks.abr.player.observation import View, read_report, read_times
from edgenetllm.tasks.abr.protocol import PAYLOAD_SHARE
from edgenetllm.tasks.abr.simulator.core import LINK_RTT_MS
from edgenetllm.tasks.abr.simulator.qoe import QoE
from edgenetllm.tasks.observation import Observation
from edgenetllm.tasks.task import Policy

ROUND_TRIP_S = LINK_RTT_MS / 1000


@dataclass(frozen=True)
class Video:
    """The video that is played: sizes in bytes (levels, chunks), the ladder, the QoE that the policy is rewarded by."""

    sizes: npt.NDArray[np.int64]
    ladder: Ladder
    qoe: QoE

    @property
    def chunks(self) -> int:
        return self.sizes.shape[1]


@dataclass
class Download:
    """A chunk on its way, in seconds of the session: asked for, first byte, the link's deadline, last byte written."""

    chunk: int
    quality: int
    asked_s: float
    begin_s: float
    due_s: float
    sent_s: float = field(default=float("nan"))


class PlayerSession:
    """A session: a policy plays a video over a link, `cloud_s` seconds away, at `speed` times the pace of the clock.

    All times are seconds of the session, which starts with the request for chunk 0.
    """

    def __init__(
        self, name: str, video: Video, link: Link, policy: Policy, executor: Executor, cloud_s: float, speed: float
    ) -> None:
        self.name, self.video, self.link = name, video, link
        self.policy, self.executor, self.cloud_s, self.speed = policy, executor, cloud_s, speed
        self.finished = asyncio.Event()
        self.problem: str | None = None
        self.active_at = time.monotonic()  # when the player was last heard of; infinite while it waits for this process
        self.restart()

    def restart(self) -> None:
        """Begin from the first chunk, as if nothing had been played."""
        self.view = View(self.video.sizes, self.video.qoe)
        self.downloads: list[Download] = []
        self.chunks: list[dict[str, float]] = []  # the record, chunk 0 included
        self._origin: float | None = None
        self._decision: tuple[int, float, float] | None = None  # action, return-to-go before it, its milliseconds

    @property
    def now_s(self) -> float:
        return 0.0 if self._origin is None else (time.monotonic() - self._origin) * self.speed

    async def sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(max(moment_s - self.now_s, 0.0) / self.speed)

    def begin(self, chunk: int, quality: int) -> Download:
        """The download of a chunk is asked for now. Raises ValueError for one that was not decided on."""
        expected = self._decision[0] if self._decision else 0
        if chunk != len(self.downloads) or len(self.view.reports) != chunk:
            raise ValueError(f"chunk {chunk} is asked for, but the next one is {len(self.downloads)}")
        if quality != expected:
            raise ValueError(f"chunk {chunk} is asked for in quality {quality}, but {expected} was decided")
        if self._origin is None:
            self._origin = time.monotonic()
        asked = self.now_s
        begin = asked + ROUND_TRIP_S
        download = Download(chunk, quality, asked, begin, self.link.arrival(begin, self.size_of(chunk, quality)))
        self.downloads.append(download)
        return download

    def size_of(self, chunk: int, quality: int) -> int:
        return int(self.video.sizes[quality, chunk])

    async def decide(self, fields: Any) -> int:
        """The quality of the next chunk, after the report on the last one. Raises ValueError for a report that is wrong."""
        observation = self._take(fields)
        loop = asyncio.get_running_loop()
        action, return_to_go, milliseconds = await loop.run_in_executor(self.executor, self._act, observation)
        await asyncio.sleep(self.cloud_s / self.speed)
        self._decision = action, return_to_go, milliseconds
        return action

    def end(self, fields: Any) -> None:
        """The last chunk has arrived. Raises ValueError for a report that is wrong."""
        self._take(fields)
        if len(self.view.reports) < self.video.chunks:
            raise ValueError(f"the session ended after {len(self.view.reports)} of {self.video.chunks} chunks")
        self.finished.set()

    def fail(self, problem: str) -> None:
        self.problem = problem
        self.finished.set()

    def _take(self, fields: Any) -> Observation:
        """Record what the player reports; the observation that follows from it."""
        report = read_report(fields)
        if len(self.downloads) != report.chunk + 1:
            raise ValueError(f"chunk {report.chunk} is reported, but {len(self.downloads)} were asked for")
        observation, reward = self.view.see(report)
        self.chunks.append(self._record(self.downloads[-1], reward, fields))
        self._reward = reward
        return observation

    def _act(self, observation: Observation) -> tuple[int, float, float]:
        """Action, return-to-go before it (NaN where the policy has none) and milliseconds; in a thread of the executor."""
        if len(self.view.reports) == 1:
            self.policy.start(1)
        elif hasattr(self.policy, "observe"):
            self.policy.observe(np.array([self._reward]))
        return_to_go = float(getattr(self.policy, "return_to_go", [np.nan])[0])
        began = time.perf_counter()
        action = int(self.policy.act(observation)[0])
        return action, return_to_go, 1e3 * (time.perf_counter() - began)

    def _record(self, download: Download, reward: float, fields: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a chunk that has arrived: those of the simulator's record, and those of the decision and link."""
        report, mbps = self.view.reports[-1], self.video.ladder.mbps
        before = self.view.reports[-2].last_quality if report.chunk else 0
        _, return_to_go, milliseconds = self._decision or (0, np.nan, np.nan)
        link_s = download.due_s - download.begin_s
        return {
            "chunk_index": report.chunk,
            "action": report.last_quality,
            "reward": reward,
            "return_to_go": return_to_go,
            "decision_ms": milliseconds,
            "bitrate_mbps": float(mbps[report.last_quality]),
            "smoothness_mbps": float(abs(mbps[report.last_quality] - mbps[before])),
            "rebuffer_s": report.rebuffer_s,
            "buffer_s": report.buffer_s,
            "delay_s": report.delay_s,
            "throughput_mbps": report.bytes * 8 / 1e6 / report.delay_s,
            "bandwidth_mbps": report.bytes * 8 / 1e6 / PAYLOAD_SHARE / link_s,
            "clock_s": download.asked_s + report.delay_s,
            **read_times(fields),
            "link_s": link_s,
            "late_s": download.sent_s - download.due_s,
            "bytes": report.bytes,
        }
