"""Policies that need no learning: fixed, rate-based, buffer-based (BBA) and BOLA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenetllm.tasks.abr.data.ladder import PUBLIC
from edgenetllm.tasks.abr.policies.bba import Bba as Bba
from edgenetllm.tasks.abr.simulator.core import BUFFER_LIMIT_MS, CHUNK_S
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.task import Array, Observation


class Fixed(Heuristic):
    """Always the same level."""

    def __init__(self, level: int) -> None:
        self.name, self.level = f"fixed_{level}", level

    def act(self, observation: Observation) -> Array:
        return np.full(len(observation["buffer_s"]), self.level)


class RateBased(Heuristic):
    """The highest bitrate below the harmonic mean of the last five throughputs."""

    name = "rate_based"

    def __init__(self, bitrates_kbps: Sequence[float] = PUBLIC.bitrates_kbps) -> None:
        self.mbps = np.array(bitrates_kbps) / 1000.0

    def start(self, episodes: int) -> None:
        self.history = np.zeros((episodes, 0))

    def act(self, observation: Observation) -> Array:
        self.history = np.column_stack([self.history, observation["throughput_mbps"]])[:, -5:]
        predicted = self.history.shape[1] / (1 / self.history).sum(1)
        return np.maximum(np.searchsorted(self.mbps, predicted, side="right") - 1, 0)


class Bola(Heuristic):
    """BOLA-BASIC (Spiteri et al., INFOCOM 2016): maximises (V · (utility + γp) − buffer in chunks) / chunk size."""

    name = "bola"

    def __init__(
        self,
        gamma_p: float = 5.0,
        buffer_s: float = BUFFER_LIMIT_MS / 2000,
        bitrates_kbps: Sequence[float] = PUBLIC.bitrates_kbps,
        chunk_s: float = CHUNK_S,
    ) -> None:
        self.gamma_p, self.buffer_chunks, self.chunk_s = gamma_p, buffer_s / chunk_s, chunk_s
        self.mbps = np.array(bitrates_kbps) / 1000.0

    def act(self, observation: Observation) -> Array:
        sizes = observation["next_sizes_mb"]
        utility = np.log(self.mbps / self.mbps[0])
        control = (self.buffer_chunks - 1) / (utility[-1] + self.gamma_p)
        stock = observation["buffer_s"][:, None] / self.chunk_s
        return np.asarray(((control * (utility + self.gamma_p) - stock) / sizes).argmax(1))
