"""The shortest task with real-valued actions: how much to heat a room, in episodes of different lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from edgenetllm.tasks.common.encoders import VectorEncoder
from edgenetllm.tasks.common.heads import GaussianHead
from edgenetllm.tasks.common.heuristic import FunctionPolicy
from edgenetllm.tasks.randomness import uniform
from edgenetllm.tasks.task import Metric, Task

WANTED, LONGEST = 0.5, 9


def thermostat(observation: dict[str, Any], gain: float = 0.5) -> Any:
    return gain * (WANTED - observation["warmth"])[:, None]


class Room:
    def reset(self, seeds: Any) -> dict[str, Any]:
        self.seeds, self.step_number = np.asarray(seeds), 0
        self.lengths = LONGEST - 3 + (uniform(self.seeds, 0) * 4).astype(int)
        self.warmth = uniform(self.seeds, 1)
        return self.observe()

    def observe(self) -> dict[str, Any]:
        return {"warmth": self.warmth.copy()}

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any]:
        alive = self.step_number < self.lengths
        self.step_number += 1
        drift = 0.2 * (uniform(self.seeds, 1 + self.step_number) - 0.5)
        self.warmth = np.where(alive, self.warmth + actions[:, 0] + drift, self.warmth)
        return self.observe(), np.where(alive, -np.abs(self.warmth - WANTED), 0.0), self.step_number >= self.lengths

    def sample(self, rng: np.random.Generator) -> Any:
        return rng.normal(size=(len(self.seeds), 1))

    def record(self) -> dict[str, Any]:
        return {"warmth": self.warmth.copy()}


class RoomTask(Task):
    name = "room"
    metrics = (Metric("comfort", "comfort", "", True), Metric("warmth", "warmth", "", True))
    max_steps = LONGEST

    def __init__(self, name: str = "room", data: Any = None) -> None:
        self.data = data

    def data_hash(self, splits: Any = ()) -> str:
        return "generated"

    def environment(self, split: str) -> Room:
        return Room()

    def seeds(self, split: str) -> Any:
        return np.arange(4) + {"train": 0, "val": 100, "test": 200}[split]

    def baselines(self) -> dict[str, Any]:
        return {"gentle": FunctionPolicy("gentle", thermostat, gain=0.2)}

    def teacher(self) -> Any:
        return FunctionPolicy("thermostat", thermostat)

    def encoder(self, width: int) -> Any:
        return VectorEncoder(width, {"warmth": 1.0}, action=nn.Linear(1, width))

    def head(self, width: int) -> Any:
        return GaussianHead(width, 1)
