"""The pool as Lightning sees it: batches of whole episodes or segments of them, and validation seeds to roll out on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgenetllm.errors import UserError
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.ragged import RaggedColumn, pad
from edgenetllm.tasks.task import Array, Task

Batch = dict[str, Tensor | dict[str, Tensor]]


@dataclass(frozen=True)
class Part:
    """The sequences `own` of the batch `whole`, which is computed in `parts`: by several ranks, or one after the other."""

    own: list[int]
    whole: list[int]
    parts: int


class EpisodeDataset(Dataset[Batch]):
    """Indexed by a list of sequences: one batch with `observation`, `action`, `return_to_go`, `valid` and maybe `target`.

    A sequence is a whole episode, or one of its segments of `segment` steps, of which the last may overlap the one before.
    Indexed by a `Part`, the batch also has `whole`: what the loss counts of the whole batch, and the number of its `parts`.
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

    def __getitem__(self, chosen: list[int] | Part) -> Batch:
        if isinstance(chosen, Part):
            counted = [name for name in self.columns if name != "return_to_go"]
            sequences = [self.sequences[index] for index in chosen.whole]
            whole = {name: _cut(self.columns[name], sequences) for name in counted}
            return {**self[chosen.own], "whole": {**whole, "parts": torch.tensor(chosen.parts)}}
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


class SeededBatches(Sampler[list[int] | Part]):
    """The batches of an epoch as a function of (seed, epoch) alone, so that a resumed run sees what it would have seen.

    A batch is shared out to `ranks`, and what one `rank` has of it is cut into `accumulate` parts: whatever these are, all
    parts together are the batch that a single process sees at once. A batch of more sequences than there are repeats some.
    Raises UserError for more parts than a batch has sequences.
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

    def __iter__(self) -> Iterator[list[int] | Part]:
        parts = self.ranks * self.accumulate
        for whole in self._batches():
            if parts == 1:
                yield whole
                continue
            for number in range(self.accumulate):
                yield Part(whole[self.rank * self.accumulate + number :: parts], whole, parts)

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


class EpisodeDataModule(L.LightningDataModule):
    """Batches of the seeds of a task's episodes, for validation and for the test: what is played needs no pool."""

    val_share = 1.0  # of the validation episodes: the first of them are played, at least one

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Batches of validation seeds."""
        seeds = torch.from_numpy(self.task.seeds("val"))
        seeds = seeds[: max(1, int(self.val_share * len(seeds)))]
        return DataLoader(seeds, batch_size=256)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Tensor]:
        """All test seeds in one batch: a replay plays all episodes side by side."""
        seeds = torch.from_numpy(self.task.seeds("test"))
        return DataLoader(seeds, batch_size=len(seeds))  # type: ignore[arg-type]


class PoolDataModule(EpisodeDataModule):
    """`batch_size` is that of an optimisation step, over all ranks and accumulated parts."""

    def __init__(
        self,
        task: Task,
        pool: Pool,
        *,
        batch_size: int,
        batches_per_epoch: int,
        seed: int,
        accumulate: int = 1,
        val_share: float = 1.0,
    ) -> None:
        super().__init__(task)
        self.pool, self.seed = pool, seed
        self.val_share = val_share
        self.batch_size, self.batches_per_epoch, self.accumulate = batch_size, batches_per_epoch, accumulate

    def setup(self, stage: str | None = None) -> None:
        self.dataset = EpisodeDataset(self.pool, self.task.segment)

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.dataset, sampler=self.batches(self.trainer), batch_size=None)

    def batches(self, trainer: L.Trainer | None) -> SeededBatches:
        """What this rank of the trainer (None: a single process) sees of each batch."""
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        return SeededBatches(
            len(self.dataset), self.batch_size, self.batches_per_epoch, self.seed, ranks, rank, self.accumulate
        )

    def calibration_batches(self, windows: int, batch_size: int = 16) -> list[Batch]:
        """`windows` sequences of the pool, a function of the seed alone."""
        dataset = EpisodeDataset(self.pool, self.task.segment)
        chosen = np.random.default_rng([self.seed, 77]).permutation(len(dataset))[:windows]
        return [dataset[[int(i) for i in chosen[k : k + batch_size]]] for k in range(0, len(chosen), batch_size)]


def _cut(column: Array, sequences: list[tuple[int, int, int]]) -> Tensor:
    """(episodes, steps, ...) -> (sequences, segment, ...); floating point becomes float32."""
    return _float32(torch.from_numpy(np.stack([column[episode, start:stop] for episode, start, stop in sequences])))


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
