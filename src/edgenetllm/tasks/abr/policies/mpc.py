"""Model predictive control (Yin et al., SIGCOMM 2015): every plan of the next five chunks, against a predicted bandwidth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.compiled import Compiler
from edgenetllm.tasks.observation import Array, Observation

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

njit = Compiler(Path(__file__).parent, ("mpc",))

HORIZON = 5  # chunks planned, and chunks remembered
MOST_PLANS = 50_000  # more than those of five chunks at eight levels: with more levels fewer chunks are planned


class Quality(Protocol):
    """A form of quality of experience, as `simulator.qoe.QoE` is one: `quality` (levels,), and what is taken off."""

    @property
    def name(self) -> str: ...

    @property
    def quality(self) -> FloatArray: ...

    @property
    def rebuffer_penalty(self) -> float: ...

    @property
    def switch_penalty(self) -> float: ...


class SizeTables(Protocol):
    """Size tables of videos by number, as `data.videos.Videos` has them."""

    @property
    def tables(self) -> IntArray: ...

    @property
    def ladder(self) -> Ladder: ...

    def look_up(self, numbers: IntArray) -> tuple[IntArray, IntArray]: ...


@dataclass(frozen=True)
class OneVideo:
    """The sizes of one video, tables (1, levels, chunks) in bytes."""

    tables: IntArray
    ladder: Ladder = PUBLIC

    def look_up(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """The table for each of `numbers` (episodes,), which must be zero."""
        if numbers.any():
            raise ValueError(f"video {numbers.max()}: the sizes of one video are known, which has the number 0")
        return self.tables, numbers


class Mpc:
    """Predicts scale · (harmonic mean of the last 5 throughputs) / (1 + error_weight · largest of the last 5 errors).

    robustMPC is error_weight = 1, fastMPC 0, both with scale 1. Unlike the implementation published with NetLLM, all plans
    are tried (6^5 of the public ladder), the look-ahead starts at the chunk to choose, and errors are forgotten between
    traces.
    """

    def __init__(
        self,
        name: str,
        sizes: IntArray | SizeTables,
        qoe: Quality,
        bandwidth_scale: float = 1.0,
        error_weight: float = 1.0,
        temperature: float = 0.1,
    ) -> None:
        self.name, self.qoe = name, qoe
        self.videos = OneVideo(np.asarray(sizes, np.int64)[None]) if isinstance(sizes, np.ndarray) else sizes
        # Whole kbps where the quality is a bitrate, so that sums are exact as in the public code: ties depend on it.
        self.thousands = np.where(np.isclose(t := qoe.quality * 1000, np.round(t)), np.round(t), t)
        self.levels = len(qoe.quality)
        self.horizon = max(depth for depth in range(1, HORIZON + 1) if depth == 1 or self.levels**depth <= MOST_PLANS)
        self.bandwidth_scale, self.error_weight, self.temperature = bandwidth_scale, error_weight, temperature

    def identity(self) -> str:
        """The constants, the form of QoE, and a hash of the tables of sizes."""
        tables = hashlib.sha256(self.videos.tables.tobytes())
        qoe = f"{self.qoe.name} {self.qoe.quality.tolist()} {self.qoe.rebuffer_penalty} {self.qoe.switch_penalty}"
        options = f"{self.bandwidth_scale}, {self.error_weight}, {self.temperature}"
        return f"Mpc({options}, {qoe}, videos {tables.hexdigest()[:16]} of {self.videos.ladder})"

    def start(self, episodes: int) -> None:
        self.throughput = np.zeros((episodes, 0))  # MB/s
        self.errors = np.zeros((episodes, 0))
        self.prediction: FloatArray | None = None
        self.sizes_mb: FloatArray | None = None  # (tables, levels, chunks)

    def act(self, observation: Observation) -> Array:
        # Predict the bandwidth, discounted by the largest recent error.
        measured = observation["throughput_mbps"] / 8
        error = np.zeros_like(measured) if self.prediction is None else np.abs(self.prediction - measured) / measured
        self.throughput = np.column_stack([self.throughput, measured])[:, -HORIZON:]
        self.errors = np.column_stack([self.errors, error])[:, -HORIZON:]
        self.prediction = self.throughput.shape[1] / (1 / self.throughput).sum(1)
        safe = self.bandwidth_scale * self.prediction / (1 + self.error_weight * self.errors.max(1))
        # Value of the best plan behind each level.
        self.values = np.empty((len(measured), self.levels))
        if self.sizes_mb is None:  # the first decision: which video is played does not change
            tables, self.table = self.videos.look_up(np.asarray(observation["video"], np.int64))
            self.sizes_mb = tables / 1e6
        chunk = int(observation["chunk_index"][0])
        quality = np.asarray(observation["last_quality"], np.int64)
        buffer_s = np.asarray(observation["buffer_s"], np.float64)
        plan_values(
            self.sizes_mb,
            self.table,
            chunk,
            quality,
            buffer_s,
            safe,
            self.thousands,
            self.qoe.rebuffer_penalty,
            self.qoe.switch_penalty,
            self.videos.ladder.chunk_s,
            self.horizon,
            self.values,
        )
        return np.asarray(
            self.levels - 1 - self.values[:, ::-1].argmax(1)
        )  # of equal plans the public code takes the highest

    def targets(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Softmax of the plan values of the first actions over `temperature`, (episodes, levels)."""
        scaled = (self.values - self.values.max(1, keepdims=True)) / self.temperature
        weights = np.exp(scaled)
        return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


@njit(cache=True)
def plan_values(
    sizes_mb: FloatArray,
    table: IntArray,
    chunk: int,
    quality: IntArray,
    buffer_s: FloatArray,
    bandwidth: FloatArray,
    thousands: FloatArray,
    penalty: float,
    switch_penalty: float,
    chunk_s: float,
    horizon: int,
    values: FloatArray,
) -> None:
    """Fill values (episodes, levels): the summed reward of the best plan of `horizon` chunks that begins with each level.

    `sizes_mb` is (tables, levels, chunks), `table` (episodes,) which of them each episode plays, `bandwidth` in MB/s,
    `thousands` (levels,) the quality of each level times 1000, `chunk_s` the seconds of video in a chunk.
    """
    # The state after each chunk of the plan that is being tried.
    levels = len(thousands)
    depth_end = min(horizon, sizes_mb.shape[2] - chunk)
    level = np.zeros(HORIZON, np.int64)
    buffer = np.zeros(HORIZON + 1)
    shown = np.zeros(HORIZON + 1)
    waited = np.zeros(HORIZON + 1)
    changed = np.zeros(HORIZON + 1)
    for e in range(len(quality)):
        values[e] = -1e30
        own = sizes_mb[table[e]]
        buffer[0] = buffer_s[e]
        depth = 0
        level[0] = 0
        while depth >= 0:
            # All levels of this chunk are tried: go back to the one before.
            if level[depth] == levels:
                depth -= 1
                if depth >= 0:
                    level[depth] += 1
                continue
            # Download this chunk and play on.
            now = level[depth]
            before = level[depth - 1] if depth else quality[e]
            download_s = own[now, chunk + depth] / bandwidth[e]
            shown[depth + 1] = shown[depth] + thousands[now]
            waited[depth + 1] = waited[depth] + max(download_s - buffer[depth], 0.0)
            changed[depth + 1] = changed[depth] + abs(thousands[now] - thousands[before])
            buffer[depth + 1] = max(buffer[depth] - download_s, 0.0) + chunk_s
            depth += 1
            # The plan is complete: keep its value if it is the best with its first level.
            if depth == depth_end:
                value = shown[depth] / 1000 - penalty * waited[depth] - switch_penalty * changed[depth] / 1000
                values[e, level[0]] = max(values[e, level[0]], value)
                depth -= 1
                level[depth] += 1
            else:
                level[depth] = 0
