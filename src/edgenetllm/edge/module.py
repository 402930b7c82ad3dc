"""The edge evaluation as a LightningModule: `trainer.test` replays the test episodes with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from edgenetllm.edge.engines.engine import Engine, EngineSession
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.progress import tqdm
from edgenetllm.tasks.task import Task


class EdgeModule(L.LightningModule):
    """The policy of a bundle in an engine; `trainer.test` logs `test/<metric>`, the mean of each of the task's metrics.

    Data are batches of test seeds, as `EpisodeDataModule(task)` has them; all episodes of a batch are played side by side.
    `episodes` then has every decision of the last test, batch by batch, and `per_episode` metric -> (episodes,). Decisions
    are greedy unless `sample_seed` is given. `engine` is the reference, `TorchEngine()`, unless another one is given; torch
    modules of it follow the Trainer's device. `progress` shows the steps of each batch; with `keep_observations` the
    `episodes` have what was observed too.

    Raises UserError for a bundle that is damaged, of another task, or of a model that the engine does not run, and for a
    Trainer of more than one process.
    """

    def __init__(
        self,
        bundle: Path | str,
        task: Task,
        engine: Engine | None = None,
        sample_seed: int | None = None,
        *,
        progress: bool = False,
        keep_observations: bool = False,
    ) -> None:
        super().__init__()
        self.task, self.progress, self.keep_observations = task, progress, keep_observations
        self.session: EngineSession = (engine or TorchEngine()).load(Path(bundle), task, sample_seed)
        policy = getattr(self.session, "policy", None)
        self.policy = policy.requires_grad_(False) if isinstance(policy, nn.Module) else None
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
        environment = self.task.environment("test")
        with tqdm(total=self.task.max_steps, desc="edge test", unit="step", disable=not self.progress) as bar:
            seeds_of_batch, kept = seeds.cpu().numpy(), self.keep_observations
            self.episodes.append(
                play(environment, seeds_of_batch, self.session, keep_observations=kept, on_step=bar.update)
            )
            bar.total = bar.n  # what the episodes really took, instead of the estimate

    def on_test_epoch_end(self) -> None:
        batches = [self.task.summarise(one.record, one.reward, one.valid) for one in self.episodes]
        self.per_episode = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for metric in self.task.metrics:
            value: Any = float(self.per_episode[metric.name].mean())
            self.log(f"test/{metric.name}", value)
