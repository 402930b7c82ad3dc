"""The pools of one or more tasks as Lightning sees them: batches of whole episodes or of segments, seeds for validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgenetllm.errors import UserError
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.ragged import RaggedColumn, pad
from edgenetllm.experience.task_weights import split_by_task, task_fractions
from edgenetllm.tasks.task import Array, Task

Batch = dict[str, Tensor | dict[str, Tensor]]


@dataclass(frozen=True)
class BatchShard:
    """The sequences `own` of the batch `whole`, which is computed in `shards`: by several ranks, or one after the other."""

    own: list[int]
    whole: list[int]
    shards: int


Choice = Mapping[str, list[int] | BatchShard]  # task -> sequences of its pool


class EpisodeDataset(Dataset[Batch]):
    """Indexed by a list of sequences: one batch with `observation`, `action`, `return_to_go`, `valid` and maybe `target`.

    A sequence is a whole episode, or one of its segments of `segment` steps, of which the last may overlap the one before.
    Indexed by a BatchShard, the batch also has `whole`: what the loss counts of the whole batch, and the number of `shards`.
    """

    def __init__(self, pool: Pool, segment: int | None = None) -> None:
        self.observation = pool.observation
        self.columns: dict[str, Array] = {
            "action": pool.action,
            "return_to_go": pool.return_to_go(),
            "valid": pool.valid,
        }
        if pool.target is not None:
            self.columns["target"] = pool.target
        steps = pool.valid.shape[1]
        segment = min(segment or steps, steps)
        starts = [min(start, steps - segment) for start in range(0, steps, segment)]
        self.sequences = [
            (episode, start, start + segment)
            for episode in range(len(pool.valid))
            for start in starts
            if pool.valid[episode, start]
        ]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, chosen: list[int] | BatchShard) -> Batch:
        if isinstance(chosen, BatchShard):
            counted = [name for name in self.columns if name != "return_to_go"]
            sequences = [self.sequences[index] for index in chosen.whole]
            whole = {name: _cut(self.columns[name], sequences) for name in counted}
            return {**self[chosen.own], "whole": {**whole, "shards": torch.tensor(chosen.shards)}}
        sequences = [self.sequences[index] for index in chosen]
        batch: Batch = {name: _cut(column, sequences) for name, column in self.columns.items()}
        observation: dict[str, Tensor] = {}
        for name, column in self.observation.items():
            if isinstance(column, RaggedColumn):
                padded = pad(column, sequences)
                observation[name] = _float32(torch.from_numpy(padded.values))
                observation[f"{name}_count"] = torch.from_numpy(padded.count)
            else:
                observation[name] = _cut(column, sequences)
        batch["observation"] = observation
        return batch


class SeededBatches(Sampler[list[int] | BatchShard]):
    """The batches of an epoch as a function of (seed, epoch) alone, so that a resumed run sees what it would have seen.

    A batch is shared out to `ranks`, and what one `rank` has of it is cut into `accumulate` shards: whatever these are, all
    shards together are the batch that a single process sees at once. A batch of more sequences than there are repeats some.
    Raises UserError for more shards than a batch has sequences.
    """

    def __init__(
        self,
        sequences: int,
        batch_size: int,
        batches: int,
        seed: int,
        ranks: int = 1,
        rank: int = 0,
        accumulate: int = 1,
    ) -> None:
        self.sequences, self.batch_size, self.batches, self.seed = sequences, batch_size, batches, seed
        self.ranks, self.rank, self.accumulate = ranks, rank, accumulate
        if ranks * accumulate > self.batch_size:
            raise UserError(
                f"a batch of {self.batch_size} sequences cannot be cut into {ranks} x {accumulate} parts "
                "(trainer.devices x trainer.accumulate)"
            )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.accumulate

    def __iter__(self) -> Iterator[list[int] | BatchShard]:
        shards = self.ranks * self.accumulate
        for whole in self._batches():
            if shards == 1:
                yield whole
                continue
            for number in range(self.accumulate):
                yield BatchShard(whole[self.rank * self.accumulate + number :: shards], whole, shards)

    def _batches(self) -> Iterator[list[int]]:
        """Epochs go through permutations of the pool one after the other, so that every sequence is seen equally often."""
        first = self.epoch * self.batches * self.batch_size
        for number in range(self.batches):
            positions = first + number * self.batch_size + np.arange(self.batch_size)
            yield [int(self._permutation(int(p) // self.sequences)[p % self.sequences]) for p in positions]

    def _permutation(self, number: int) -> np.ndarray:
        if getattr(self, "_cached", (-1, None))[0] != number:
            self._cached = (number, np.random.default_rng([self.seed, number]).permutation(self.sequences))
        return self._cached[1]


class _TaskDataset(Dataset[dict[str, Batch]]):
    """Indexed by task -> sequences of its pool: task -> batch."""

    def __init__(self, datasets: Mapping[str, EpisodeDataset]) -> None:
        self.datasets = datasets

    def __getitem__(self, chosen: Choice) -> dict[str, Batch]:
        return {name: self.datasets[name][sequences] for name, sequences in chosen.items()}


class _TaskBatches(Sampler[Choice]):
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


class EpisodeDataModule(L.LightningDataModule):
    """Batches of the seeds of a task's episodes, for validation and for the test: what is played needs no pool."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Batches of validation seeds."""
        return _validation(self.task, 1.0)

    def test_dataloader(self) -> DataLoader[Tensor]:
        """All test seeds in one batch: a replay plays all episodes side by side."""
        seeds = torch.from_numpy(self.task.seeds("test"))
        return DataLoader(seeds, batch_size=len(seeds))  # type: ignore[arg-type]


class PoolDataModule(L.LightningDataModule):
    """The pools of one or more tasks; a batch for training holds one of each task, by its name.

    `batch_size` is that of an optimisation step, over all tasks, ranks and accumulated shards; `task_weights`, relative to
    each other, say how much of it each task has (None: the same). Of the validation episodes the first `val_fraction` are
    played, at least one. Raises UserError for fewer sequences in a batch than tasks.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        pools: Mapping[str, Pool],
        *,
        batch_size: int,
        batches_per_epoch: int,
        seed: int,
        accumulate: int = 1,
        val_fraction: float = 1.0,
        task_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.tasks, self.pools, self.seed = tasks, pools, seed
        self.batches_per_epoch, self.accumulate, self.val_fraction = batches_per_epoch, accumulate, val_fraction
        self.fractions = task_fractions(list(tasks), task_weights)
        self.batch_sizes = split_by_task(batch_size, self.fractions, "a batch_size")

    def setup(self, stage: str | None = None) -> None:
        self.datasets = {name: EpisodeDataset(self.pools[name], task.segment) for name, task in self.tasks.items()}

    def train_dataloader(self) -> DataLoader[dict[str, Batch]]:
        """A loader of the sequences of each batch that this rank of the trainer sees; without a trainer, of all."""
        ranks, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        batches = {
            name: SeededBatches(
                len(dataset), self.batch_sizes[name], self.batches_per_epoch, self.seed, ranks, rank, self.accumulate
            )
            for name, dataset in self.datasets.items()
        }
        return DataLoader(_TaskDataset(self.datasets), sampler=_TaskBatches(batches), batch_size=None)

    def val_dataloader(self) -> list[DataLoader[Tensor]]:
        """Batches of validation seeds, a loader for each task."""
        return [_validation(task, self.val_fraction) for task in self.tasks.values()]

    def calibration_batches(self, windows: int, batch_size: int = 16) -> list[dict[str, Any]]:
        """`windows` sequences of all pools, a function of the seed alone; a batch is of one `task` and says of which."""
        batches: list[dict[str, Any]] = []
        for name, number in split_by_task(windows, self.fractions, "a number of windows").items():
            dataset = EpisodeDataset(self.pools[name], self.tasks[name].segment)
            chosen = np.random.default_rng([self.seed, 77]).permutation(len(dataset))[:number].tolist()
            cuts = [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)]
            batches += [{**dataset[cut], "task": name} for cut in cuts]
        return batches


def _validation(task: Task, fraction: float) -> DataLoader[Tensor]:
    seeds = torch.from_numpy(task.seeds("val"))
    seeds = seeds[: max(1, int(fraction * len(seeds)))]
    return DataLoader(seeds, batch_size=256)  # type: ignore[arg-type]


def _cut(column: Array, sequences: list[tuple[int, int, int]]) -> Tensor:
    """(episodes, steps, ...) -> (sequences, segment, ...); floating point becomes float32."""
    return _float32(torch.from_numpy(np.stack([column[episode, start:stop] for episode, start, stop in sequences])))


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
