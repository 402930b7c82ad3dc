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
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.models.session import Session
from edgenetllm.progress import tqdm
from edgenetllm.tasks.task import Task


class EdgeModule(L.LightningModule):
    """The policy of a bundle, of which `trainer.test` logs `test/<metric>`, the mean of each of the task's metrics.

    Data are batches of test seeds, as `EpisodeDataModule(task)` has them; all episodes of a batch are played side by side.
    `episodes` then has every decision of the last test, batch by batch, and `per_episode` metric -> (episodes,). Decisions
    are greedy unless `sample_seed` is given. `progress` shows the steps of each batch.

    Raises UserError for a bundle that is damaged or of another task, and for a Trainer of more than one process.
    """

    def __init__(
        self, bundle: Path | str, task: Task, sample_seed: int | None = None, *, progress: bool = False
    ) -> None:
        super().__init__()
        self.task, self.sample_seed, self.progress = task, sample_seed, progress
        self.policy, self.target_return = load_policy(Path(bundle), task)
        self.policy.requires_grad_(False)
        self.episodes: list[Episodes] = []
        self.per_episode: dict[str, npt.NDArray[np.float64]] = {}

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise UserError(
                f"EdgeModule plays in one process, and this Trainer has {self.trainer.world_size}: Trainer(devices=1)"
            )

    def on_test_epoch_start(self) -> None:
        self.episodes = []

    def test_step(self, seeds: Tensor, batch_index: int) -> None:
        environment, session = self.task.environment("test"), self.session()
        with tqdm(total=self.task.max_steps, desc="edge test", unit="step", disable=not self.progress) as bar:
            self.episodes.append(play(environment, seeds.cpu().numpy(), session, on_step=bar.update))
            bar.total = bar.n  # what the episodes really took, instead of the estimate

    def session(self) -> Session:
        """The policy of the bundle as it decides in the test."""
        return Session(self.policy, self.target_return, "sparse", self.sample_seed)

    def on_test_epoch_end(self) -> None:
        batches = [self.task.summarise(one.record, one.reward, one.valid) for one in self.episodes]
        self.per_episode = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for metric in self.task.metrics:
            value: Any = float(self.per_episode[metric.name].mean())
            self.log(f"test/{metric.name}", value)
