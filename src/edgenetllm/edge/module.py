"""The edge evaluation as a LightningModule: `trainer.test` replays the test episodes with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgenetllm.edge.engine import load_policy
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session
from edgenetllm.tasks.task import Task


class EdgeModule(L.LightningModule):
    """The policy of a bundle, of which `trainer.test` logs `test/<metric>`, the mean of each of the task's metrics.

    Data are batches of test seeds, as `EpisodeDataModule(task)` has them; all episodes of a batch are played side by side.
    `per_episode` then holds metric -> (episodes,) of the last test. Decisions are greedy unless `sample_seed` is given.

    Raises UserError for a bundle that is damaged or of another task, and for a Trainer of more than one process.
    """

    def __init__(self, bundle: Path | str, task: Task, sample_seed: int | None = None) -> None:
        super().__init__()
        self.task, self.sample_seed = task, sample_seed
        self.policy, self.target_return = load_policy(Path(bundle), task)
        self.policy.requires_grad_(False)
        self.per_episode: dict[str, npt.NDArray[np.float64]] = {}

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise UserError(
                f"EdgeModule plays in one process, and this Trainer has {self.trainer.world_size}: Trainer(devices=1)"
            )

    def on_test_epoch_start(self) -> None:
        self._played: dict[str, list[npt.NDArray[np.float64]]] = {}

    def test_step(self, seeds: Tensor, batch_index: int) -> None:
        session = Session(self.policy, self.target_return, "sparse", self.sample_seed)
        episodes = play(self.task.environment("test"), seeds.cpu().numpy(), session)
        for name, values in self.task.summarise(episodes.record, episodes.reward, episodes.valid).items():
            self._played.setdefault(name, []).append(values)

    def on_test_epoch_end(self) -> None:
        self.per_episode = {name: np.concatenate(parts) for name, parts in self._played.items()}
        for metric in self.task.metrics:
            value: Any = float(self.per_episode[metric.name].mean())
            self.log(f"test/{metric.name}", value)
