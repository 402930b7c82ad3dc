"""The pool as Lightning sees it: batches of whole episodes, and validation seeds to roll out on."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgenetllm.experience.pool import Pool
from edgenetllm.tasks.task import Task

Batch = dict[str, Tensor | dict[str, Tensor]]


class EpisodeDataset(Dataset[Batch]):
    """Indexed by a list of episodes: one batch with `observation`, `action`, `return_to_go`, `valid` and maybe `target`."""

    def __init__(self, pool: Pool) -> None:
        self.observation = {name: _float32(torch.from_numpy(value)) for name, value in pool.observation.items()}
        self.columns = {
            "action": torch.from_numpy(pool.action),
            "return_to_go": torch.from_numpy(pool.return_to_go()),
            "valid": torch.from_numpy(pool.valid),
        }
        if pool.target is not None:
            self.columns["target"] = torch.from_numpy(pool.target)

    def __len__(self) -> int:
        return len(self.columns["valid"])

    def __getitem__(self, episodes: list[int]) -> Batch:
        batch: Batch = {name: value[episodes] for name, value in self.columns.items()}
        batch["observation"] = {name: value[episodes] for name, value in self.observation.items()}
        return batch


class SeededBatches(Sampler[list[int]]):
    """The batches of an epoch as a function of (seed, epoch) alone, so that a resumed run sees what it would have seen."""

    def __init__(self, episodes: int, batch_size: int, batches: int, seed: int) -> None:
        self.episodes, self.batch_size, self.batches, self.seed = episodes, min(batch_size, episodes), batches, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        """Epochs go through permutations of the pool one after the other, so that every episode is seen equally often."""
        first = self.epoch * self.batches * self.batch_size
        for number in range(self.batches):
            positions = first + number * self.batch_size + np.arange(self.batch_size)
            yield [int(self._permutation(int(p) // self.episodes)[p % self.episodes]) for p in positions]

    def _permutation(self, number: int) -> np.ndarray:
        if getattr(self, "_cached", (-1, None))[0] != number:
            self._cached = (number, np.random.default_rng([self.seed, number]).permutation(self.episodes))
        return self._cached[1]


class PoolDataModule(L.LightningDataModule):
    def __init__(self, task: Task, pool: Pool, *, batch_size: int, batches_per_epoch: int, seed: int) -> None:
        super().__init__()
        self.task, self.pool, self.seed = task, pool, seed
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch

    def setup(self, stage: str | None = None) -> None:
        self.dataset = EpisodeDataset(self.pool)

    def train_dataloader(self) -> DataLoader[Batch]:
        batches = SeededBatches(len(self.dataset), self.batch_size, self.batches_per_epoch, self.seed)
        return DataLoader(self.dataset, sampler=batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Batches of validation seeds."""
        seeds = torch.from_numpy(self.task.seeds("val"))
        return DataLoader(seeds, batch_size=256)  # type: ignore[arg-type]

    def calibration_batches(self, windows: int, batch_size: int = 16) -> list[Batch]:
        """`windows` episodes of the pool, a function of the seed alone."""
        dataset = EpisodeDataset(self.pool)
        chosen = np.random.default_rng([self.seed, 77]).permutation(len(dataset))[:windows]
        return [dataset[[int(i) for i in chosen[k : k + batch_size]]] for k in range(0, len(chosen), batch_size)]


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
