"""Many streaming episodes, stepped together: the Environment of `tasks/task.py` over the compiled simulator.

`reset` plays chunk 0 at the lowest quality, as the public protocol does, so an episode has chunks - 1 decisions; the
reward of chunk 0 is not counted. Observations, of E episodes (what one step adds):

    last_quality      (E,)       level of the last chunk
    buffer_s          (E,)       seconds of video in the buffer
    throughput_mbps   (E,)       bits of the last chunk over its delay
    delay_s           (E,)       download and round trip of the last chunk
    rebuffer_s        (E,)       stall while the last chunk was on its way, and while its decision was waited for
    next_sizes_mb     (E, 6)     size in megabytes of the next chunk at each level
    chunks_left       (E,)       chunks still to decide, the next one included
    chunk_index       (E,)       index of the next chunk
    video             (E,)       number of the episode's video, see videos.py: for policies that look ahead
    past_throughput_mbps, past_delay_s  (E, 8)  of the last eight chunks, the latest last, zero before the start
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.data.traces import TraceSet
from edgenetllm.tasks.abr.data.videos import Videos
from edgenetllm.tasks.abr.protocol import PAST, PAYLOAD_SHARE
from edgenetllm.tasks.abr.simulator.core import Arrivals, Clock, Playback, step_many, wait_many
from edgenetllm.tasks.abr.simulator.qoe import QoE
from edgenetllm.tasks.randomness import uniform
from edgenetllm.tasks.task import Array, Observation

# Counters of an episode's random numbers.
TRACE_DRAW = 0
START_DRAW = 1
NOISE_DRAW = 2  # of chunk 0; chunk c uses NOISE_DRAW + c


EPISODE_COLUMNS = (
    "_seeds",
    "_video",
    "_table",
    "_quality",
    "_last_quality",
    "_size",
    "_episode_clock_s",
    "_stall_ms",
    "_past_mbps",
    "_past_delay_s",
)


class AbrEnvironment:
    """Streaming sessions over traces, chunk sizes in bytes and a form of QoE; a seed chooses its episode.

    sizes: of one video, (levels, chunks), or the `Videos` of which each seed draws one.
    random_start: a seed draws trace and start row (training); else seed i is trace i with the protocol's start row.
    noise: the delay of each chunk is multiplied by U(0.9, 1.1), drawn from the seed (training of the public environment).
    clock: `public`: the round trip does not move the trace's clock; `real`: all time that passes does, see core.py.
    """

    def __init__(
        self,
        traces: TraceSet,
        sizes: npt.NDArray[np.int64] | Videos,
        qoe: QoE,
        *,
        random_start: bool,
        noise: bool = False,
        clock: Clock = "public",
    ) -> None:
        self.traces = traces
        self.videos = sizes if isinstance(sizes, Videos) else Videos(np.asarray(sizes, np.int64)[None])
        self.qoe = qoe
        self.random_start = random_start
        self.noise = noise
        self.clock: Clock = clock
        self.chunks = self.videos.tables.shape[2]
        self.levels = self.videos.ladder.levels
        self._prepare(self.videos.tables)
        self._seeds = np.empty(0, np.int64)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Observation:
        # Trace and start row: drawn from the seed, or the recorded ones.
        seeds = np.array(seeds, np.int64)
        count = len(seeds)
        if self.random_start:
            trace = (uniform(seeds, TRACE_DRAW) * len(self.traces)).astype(np.int64)
            start = 1 + (uniform(seeds, START_DRAW) * (self.traces.rows[trace] - 1)).astype(np.int64)
        else:
            if not ((seeds >= 0) & (seeds < len(self.traces))).all():
                raise ValueError(f"seeds are trace indices here, in [0, {len(self.traces)})")
            trace, start = seeds, self.traces.starts[seeds]
        # The video of each episode.
        first = self.traces.offsets[trace]
        self._seeds = seeds
        self._video = self.videos.draw(seeds)
        tables, self._table = self.videos.look_up(self._video)
        if tables is not self._tables:
            self._prepare(tables)
        # Everything at zero, then the first chunk, at the lowest quality.
        self._state = Playback(
            first=first,
            rows=self.traces.rows[trace],
            row=start.copy(),
            clock_s=self.traces.time_s[first + start - 1],
            buffer_ms=np.zeros(count),
            chunk=np.zeros(count, np.int64),
        )
        self._arrivals = Arrivals(*(np.zeros(count) for _ in Arrivals._fields))
        self._quality = np.zeros(count, np.int64)
        self._last_quality = np.zeros(count, np.int64)
        self._size = np.zeros(count, np.int64)
        self._episode_clock_s = np.zeros(count)
        self._stall_ms = np.zeros(count)  # while the next chunk's decision was waited for
        self._past_mbps = np.zeros((count, PAST))
        self._past_delay_s = np.zeros((count, PAST))
        self._play(np.zeros(count, np.int64))
        return self.observe()

    def step(self, actions: Array) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        actions = np.asarray(actions, np.int64)
        alive = self._state.chunk < self.chunks
        if actions.shape != alive.shape or not ((actions >= 0) & (actions < self.levels))[alive].all():
            raise ValueError(f"actions must be {alive.shape} levels in [0, {self.levels})")
        self._play(actions)
        reward = self.qoe.reward(self._quality, self._last_quality, self._arrivals.rebuffer_s)
        return self.observe(), np.where(alive, reward, 0.0), self._state.chunk >= self.chunks

    def wait(self, seconds: npt.NDArray[np.float64]) -> None:
        """Let the time of a decision pass, (episodes,): the chunk that follows is asked for so many seconds later.

        Meanwhile the trace's clock moves, whichever it is, and the buffer drains; a stall counts to that chunk. Its delay and
        throughput do not include the wait. Raises ValueError for negative or infinite times.
        """
        seconds = np.asarray(seconds, np.float64)
        alive = self._state.chunk < self.chunks
        if seconds.shape != alive.shape or not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise ValueError(f"wait takes {alive.shape} finite seconds of at least 0")
        wait_many(self.traces.time_s, seconds * 1000.0, alive, self._state, self._stall_ms)
        self._episode_clock_s += np.where(alive, seconds, 0.0)

    def elapsed_s(self) -> npt.NDArray[np.float64]:
        """Seconds since each episode began, (episodes,): all delays, sleeps and waits."""
        return self._episode_clock_s.copy()

    def sample(self, rng: np.random.Generator) -> Array:
        return rng.integers(0, self.levels, len(self._seeds))

    def record(self) -> dict[str, Array]:
        """Figures of the chunk just played, each (episodes,)."""
        mbps = self.videos.ladder.mbps
        bitrate = mbps[self._quality]
        megabits = self._size * 8 / 1e6
        return {
            "chunk_index": self._state.chunk - 1,
            "bitrate_mbps": bitrate,
            "smoothness_mbps": np.abs(bitrate - mbps[self._last_quality]),
            "rebuffer_s": self._arrivals.rebuffer_s.copy(),
            "buffer_s": self._state.buffer_ms / 1000.0,
            "delay_s": self._arrivals.delay_ms / 1000.0,
            "throughput_mbps": self._past_mbps[:, -1].copy(),
            "bandwidth_mbps": megabits
            / PAYLOAD_SHARE
            / self._arrivals.download_s,  # of the link, mean over the download
            "clock_s": self._episode_clock_s.copy(),  # since the episode's start: all delays, sleeps and waits
        }

    def clone(self, episodes: npt.NDArray[np.int64] | None = None) -> AbrEnvironment:
        """An independent copy of all episodes, or of those with these numbers, repeated where a number is.

        Traces and size tables are shared.
        """
        chosen = slice(None) if episodes is None else episodes
        twin = copy.copy(self)
        for name in EPISODE_COLUMNS:
            setattr(twin, name, getattr(self, name)[chosen].copy())
        twin._state = Playback(**{name: column[chosen].copy() for name, column in self._state._asdict().items()})
        twin._arrivals = Arrivals(**{name: column[chosen].copy() for name, column in self._arrivals._asdict().items()})
        return twin

    @staticmethod
    def together(environments: Sequence[AbrEnvironment]) -> AbrEnvironment:
        """The episodes of clones of one environment, one after another, wherever each of them stands.

        Raises ValueError unless they are clones of one `reset`: others may have drawn other videos.
        """
        if any(environment._tables is not environments[0]._tables for environment in environments):
            raise ValueError("the episodes of different resets cannot be joined")
        twin = copy.copy(environments[0])
        for name in EPISODE_COLUMNS:
            setattr(twin, name, np.concatenate([getattr(environment, name) for environment in environments]))
        states, arrivals = (
            [environment._state for environment in environments],
            [environment._arrivals for environment in environments],
        )
        twin._state = Playback(**{name: _joined(states, name) for name in Playback._fields})
        twin._arrivals = Arrivals(**{name: _joined(arrivals, name) for name in Arrivals._fields})
        return twin

    def _prepare(self, tables: npt.NDArray[np.int64]) -> None:
        """The videos of this reset: chunk sizes (tables, levels, chunks), and as megabytes (tables, chunks + 1, levels)."""
        self._tables = tables
        self._sizes_mb = np.pad(tables.transpose(0, 2, 1) / 1e6, [(0, 0), (0, 1), (0, 0)])

    def _play(self, actions: npt.NDArray[np.int64]) -> None:
        """One chunk in each episode that is not done."""
        state, out = self._state, self._arrivals
        alive = state.chunk < self.chunks
        actions = np.where(alive, actions, 0)
        noise = 0.9 + 0.2 * uniform(self._seeds, NOISE_DRAW + state.chunk) if self.noise else np.ones(len(actions))
        size = self._tables[self._table, actions, np.minimum(state.chunk, self.chunks - 1)]
        self._size = np.where(alive, size, self._size)
        self._last_quality = np.where(alive, self._quality, self._last_quality)
        self._quality = np.where(alive, actions, self._quality)
        chunk_s = self.videos.ladder.chunk_s
        step_many(self.traces.time_s, self.traces.mbps, size, noise, alive, state, out, chunk_s, self.clock)
        out.rebuffer_s[alive] += self._stall_ms[alive] / 1000.0
        self._stall_ms[:] = 0.0
        self._episode_clock_s += np.where(alive, (out.delay_ms + out.sleep_ms) / 1000.0, 0.0)
        for past, value in (
            (self._past_mbps, self._size * 8 / 1e3 / out.delay_ms),
            (self._past_delay_s, out.delay_ms / 1e3),
        ):
            past[alive] = np.column_stack([past[alive, 1:], value[alive]])

    def observe(self) -> Observation:
        """The observation of all episodes now, as `reset` and `step` return it."""
        chunk = self._state.chunk
        return {
            "last_quality": self._quality.copy(),
            "buffer_s": self._state.buffer_ms / 1000.0,
            "throughput_mbps": self._past_mbps[:, -1].copy(),
            "delay_s": self._arrivals.delay_ms / 1000.0,
            "rebuffer_s": self._arrivals.rebuffer_s.copy(),
            "next_sizes_mb": self._sizes_mb[self._table, chunk],
            "chunks_left": self.chunks - chunk,
            "chunk_index": chunk.copy(),
            "video": self._video.copy(),
            "past_throughput_mbps": self._past_mbps.copy(),
            "past_delay_s": self._past_delay_s.copy(),
        }


def _joined(records: Sequence[Playback | Arrivals], name: str) -> Array:
    return np.concatenate([getattr(record, name) for record in records])
