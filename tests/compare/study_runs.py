"""Runs of a retention study that never happened, written by the real writers into folders of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.report.episodes import Columns, write_metrics, write_replay
from edgenetllm.report.results import Results, describe_metrics, differences, estimates, retention
from edgenetllm.tasks.task import Metric

FloatArray = npt.NDArray[np.float64]
QOE = Metric("qoe", "QoE", "", True)
JCT = Metric("jct_s", "mean JCT", "s", False)
EPISODES = 20
STEPS = 4
LAYERS = {f"layers.{block}.mlp.{kind}": {"zeros": 40, "weights": 100, "error": 0.01 * (block + 1), "cosine": 0.9}
          for block in range(2) for kind in ("up_proj", "down_proj")}  # fmt: skip


@dataclass
class Runs:
    """Writes runs below `root`, numbered by the time at which they were written."""

    root: Path
    metric: Metric = QOE
    task: str = "abr"
    count: int = field(default=0)

    def dense(self, seed: int) -> FloatArray:
        """Rewards of the dense parent (episodes, steps): episodes differ more than seeds."""
        level = np.random.default_rng(99).uniform(0.6, 1.6, (EPISODES, 1)) * (1 if self.task == "abr" else 50)
        return level * np.random.default_rng(seed).uniform(0.95, 1.05, (EPISODES, STEPS))

    def write(
        self,
        share: float,
        method: str | None = "wanda",
        sparsity: float = 0.4,
        seed: int = 1,
        recovery: str | None = None,
        baselines: Mapping[str, float] | None = None,
        dense_share: float = 1.0,
        episode: str = "trace",
        settings: Mapping[str, Any] | None = None,
        older: bool = False,
        **change: Any,
    ) -> Path:
        """A run whose sparse model has about `share` of the retention; returns its folder.

        `settings` are those that another run may have otherwise; `older`: it says nothing of them.
        """
        self.count += 1
        folder = self.root / f"2026-01-01_00-00-{self.count:02d}_{self.task}-tiny"
        folder.mkdir(parents=True)
        noise = np.random.default_rng(self.count).uniform(0.97, 1.03, (EPISODES, STEPS))
        dense = self.dense(seed) * dense_share
        played = {"dense": dense, "sparse": dense * noise * (share if self.metric.higher_is_better else 1 / share)}
        for name, factor in (baselines or {"bba": 0.7, "mpc": 0.95}).items():
            played[name] = self.dense(77) * factor
        rows = {name: self._columns(values) for name, values in played.items()}
        names = [f"{episode} {number}" for number in range(EPISODES)]
        write_replay(folder / "replay.parquet", rows, names, dict.fromkeys(rows, np.ones((EPISODES, STEPS), bool)))
        per_episode = {name: {self.metric.name: values.mean(1)} for name, values in played.items()}
        write_metrics(folder / "metrics.parquet", per_episode, {}, (self.metric,), names, np.arange(EPISODES))
        state = {"status": "finished", "started": f"2026-01-01T00:{self.count:02d}:00.000000+00:00"}
        (folder / "run.json").write_text(json.dumps(state))
        pruning = None if method is None else {"method": method.split()[0], "label": method, "layers": LAYERS}
        fields: dict[str, Any] = {
            "stage": "prune",
            "task": self.task,
            "model": "tiny",
            "data": "synthetic",
            "run": str(folder),
            "seed": seed,
            "sparsity": sparsity,
            "pruning": pruning,
            "recovery": None if recovery is None else {"method": recovery},
            "metrics": describe_metrics((self.metric,)),
            "policies": estimates(per_episode, (self.metric,)),
            "differences": differences(per_episode, self.metric),
            "retention": retention(per_episode["sparse"], per_episode["dense"], (self.metric,)),
            "config_hash": "c",
            "data_hash": "d",
        }
        fields |= change
        identity = {
            "data.name": fields["data"],
            "model.name": fields["model"],
            "adapter.rank": 8,
            "budget.epochs": 4,
            "pruning.method.name": (method or "none").split()[0],
            "pruning.options": (method or "").split()[1:],
            "recovery.name": recovery or "none",
            "export.values": (fields.get("bundle") or {}).get("values"),
            "sparsity": sparsity,
            "code": "3fa9c1" + "0" * 34,
        } | dict(settings or {})
        Results(**{"identity": None if older else identity} | fields).save(folder / "results.json")
        return folder

    def _columns(self, values: FloatArray) -> Columns:
        action = np.zeros(values.shape, int)
        if self.task == "abr":
            return {"action": action, "reward": values}
        # The jobs complete two at a time, at every other decision.
        count = np.tile(np.arange(STEPS) % 2 * 2, (EPISODES, 1)).astype(np.int32)
        return {"action": action, "reward": -values, "jct_s": RaggedColumn(values.ravel(), count)}
