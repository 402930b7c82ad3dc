"""The pools of several tasks as Lightning sees them: every batch holds one of each task, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgenetllm.experience.datamodule import Batch, EpisodeDataset, Part, PoolDataModule, SeededBatches
from edgenetllm.experience.joint_task import JointTask
from edgenetllm.experience.pool import Pool
from edgenetllm.tasks.task import Task

Choice = Mapping[str, list[int] | Part]  # task -> sequences of its pool


class _JointDataset(Dataset[dict[str, Batch]]):
    """Indexed by a Choice: task -> batch."""

    def __init__(self, datasets: Mapping[str, EpisodeDataset]) -> None:
        self.datasets = datasets

    def __getitem__(self, chosen: Choice) -> dict[str, Batch]:
        return {name: self.datasets[name][sequences] for name, sequences in chosen.items()}


class _JointBatches(Sampler[Choice]):
    """The batches of every task side by side, each a function of (seed, epoch) alone."""

    def __init__(self, batches: Mapping[str, SeededBatches]) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        for batches in self.batches.values():
            batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(next(iter(self.batches.values())))

    def __iter__(self) -> Iterator[Choice]:
        for chosen in zip(*self.batches.values(), strict=True):
            yield dict(zip(self.batches, chosen, strict=True))


class JointDataModule(L.LightningDataModule):
    """`parts` are the data modules of the tasks, each with its share of an optimisation step's sequences; `share_out` says
    how many of a number of calibration windows each has."""

    def __init__(self, parts: Mapping[str, PoolDataModule], share_out: Callable[[int], Mapping[str, int]]) -> None:
        super().__init__()
        self.parts, self.share_out = parts, share_out

    def setup(self, stage: str | None = None) -> None:
        for part in self.parts.values():
            part.setup(stage)

    def train_dataloader(self) -> DataLoader[dict[str, Batch]]:
        dataset = _JointDataset({name: part.dataset for name, part in self.parts.items()})
        batches = _JointBatches({name: part.batches(self.trainer) for name, part in self.parts.items()})
        return DataLoader(dataset, sampler=batches, batch_size=None)

    def val_dataloader(self) -> list[DataLoader[Tensor]]:
        """Batches of validation seeds, a loader for each task."""
        return [part.val_dataloader() for part in self.parts.values()]

    def calibration_batches(self, windows: int, batch_size: int = 16) -> list[dict[str, Any]]:
        """`windows` sequences of all pools, a function of the seed alone; a batch is of one `task` and says of which."""
        return [
            {**batch, "task": name}
            for name, number in self.share_out(windows).items()
            for batch in self.parts[name].calibration_batches(number, batch_size)
        ]


def build_datamodule(
    task: Task | JointTask,
    pool: Pool | Mapping[str, Pool],
    *,
    batch_size: int,
    batches_per_epoch: int,
    seed: int,
    accumulate: int = 1,
    val_share: float = 1.0,
) -> PoolDataModule | JointDataModule:
    """Batches of a pool, or of the pools of several tasks, in which each has its share."""
    options: dict[str, Any] = {
        "batches_per_epoch": batches_per_epoch,
        "seed": seed,
        "accumulate": accumulate,
        "val_share": val_share,
    }
    if not isinstance(task, JointTask):
        assert isinstance(pool, Pool)
        return PoolDataModule(task, pool, batch_size=batch_size, **options)
    assert not isinstance(pool, Pool)
    sizes = task.share_out(batch_size, "a batch_size")
    parts = {
        name: PoolDataModule(one, pool[name], batch_size=sizes[name], **options) for name, one in task.tasks.items()
    }
    return JointDataModule(parts, lambda windows: task.share_out(windows, "a number of windows"))
