"""A task whose main metric is a quantile over the episode, with a record column of that name that means something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import nn

from edgenetllm.edge.replay import replay
from edgenetllm.report.episodes import write_episodes_of
from edgenetllm.report.results import Results, describe_metrics, differences, estimates, retention
from edgenetllm.tasks.common.encoders import VectorEncoder
from edgenetllm.tasks.common.heads import GaussianHead
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.task import Metric, Task

TAIL = Metric("wait_s", "wait, 90th percentile", "s", False)
WORST = Metric("worst_s", "longest wait", "s", False)
EPISODES, STEPS = 15, 12


class Queue(Heuristic):
    """A policy that serves some share of what waits."""

    def __init__(self, name: str, share: float) -> None:
        self.name, self.share = name, share

    def act(self, observation: Mapping[str, Any]) -> Any:
        return np.full((len(observation["waiting"]), 1), self.share)


class QueueEnvironment:
    """Work arrives at random; the reward is always 1, and so says nothing of the metrics."""

    extra: Mapping[str, Any] = {}  # more columns of the record

    def reset(self, seeds: Any) -> dict[str, Any]:
        self.draws = [np.random.default_rng(seed) for seed in seeds]
        self.waiting, self.taken = np.zeros(len(seeds)), 0
        return {"waiting": self.waiting}

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any]:
        self.waiting = self.waiting * (1 - actions[:, 0]) + [draw.exponential() for draw in self.draws]
        self.taken += 1
        done = np.full(len(self.waiting), self.taken == STEPS)
        return {"waiting": self.waiting}, np.ones(len(self.waiting)), done

    def sample(self, rng: np.random.Generator) -> Any:
        return rng.uniform(size=(len(self.waiting), 1))

    def record(self) -> dict[str, Any]:
        return {"queue_s": self.waiting.copy(), "wait_s": np.full(len(self.waiting), 1e6 + self.taken), **self.extra}


class QueueTask(Task):
    name = "queue"
    metrics = (TAIL, WORST)
    max_steps = STEPS

    def data_hash(self, splits: Any = ()) -> str:
        return "generated"

    def environment(self, split: str) -> QueueEnvironment:
        return QueueEnvironment()

    def seeds(self, split: str) -> Any:
        return np.arange(EPISODES)

    def episode_names(self, split: str) -> list[str]:
        return [f"hour {number}" for number in range(EPISODES)]

    def baselines(self) -> dict[str, Queue]:
        return {"fair": Queue("fair", 0.5)}

    def teacher(self) -> Queue:
        return Queue("fair", 0.5)

    def bounds(self, split: str, progress: bool = False) -> dict[str, dict[str, Any]]:
        return {"optimum": {"wait_s": np.full(EPISODES, 0.01)}}

    def encoder(self, width: int) -> VectorEncoder:
        return VectorEncoder(width, {"waiting": 1.0}, nn.Linear(1, width))

    def head(self, width: int) -> GaussianHead:
        return GaussianHead(width, 1)

    def summarise(self, record: Mapping[str, Any], reward: Any, valid: Any) -> dict[str, Any]:
        return {"wait_s": np.quantile(record["queue_s"], 0.9, axis=1), "worst_s": record["queue_s"].max(1)}


def run_of(task: Any, folder: Path, seed: int = 1) -> SimpleNamespace:
    """A run's three files, by the writers of a real one; returns what `summarise` and `bounds` said."""
    folder.mkdir(parents=True)
    policies = {"dense": Queue("dense", 0.9 + 0.01 * seed), "sparse": Queue("sparse", 0.7), **task.baselines()}
    played = replay(task, "test", policies, progress=False)
    per_episode = {name: task.summarise(e.record, e.reward, e.valid) for name, e in played.items()}
    bounds = task.bounds("test")
    write_episodes_of(folder, task, played, per_episode, bounds)
    Results(
        stage="train",
        task=task.name,
        model="tiny",
        data="hours",
        run=str(folder),
        seed=seed,
        sparsity=0.4,
        pruning={"method": "wanda", "label": "wanda"},
        metrics=describe_metrics(task.metrics),
        policies=estimates({**per_episode, **bounds}, task.metrics),
        differences=differences(per_episode, task.metric),
        retention=retention(per_episode["sparse"], per_episode["dense"], task.metrics),
        config_hash="c",
        data_hash="d",
        identity={"adapter.rank": 8, "sparsity": 0.4},
    ).save(folder / "results.json")
    return SimpleNamespace(per_episode=per_episode, bounds=bounds)
