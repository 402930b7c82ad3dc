"""Hidden states of the frozen backbone, computed once for each sequence of a pool where only the head learns.

That is exact: with a frozen encoder, norms and biases, a sequence always has the same hidden states. They are computed one
sequence at a time, so that not even rounding depends on which sequences a batch holds. As soon as the encoder learns, what
enters the backbone changes at every step, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from edgenetllm.experience.datamodule import Batch, BatchShard, EpisodeDataset, PoolDataModule
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.sections import Trained


def is_exact(train: Sequence[Trained]) -> bool:
    """True where the hidden states stay the same while these parts learn."""
    return set(train) == {"head"}


def hidden_states(policy: PolicyNetwork, data: PoolDataModule, bf16: bool) -> dict[str, Tensor]:
    """Task -> (sequences, steps, width) on the CPU: what its head is given, computed on the policy's device."""
    data.setup()
    return {name: _of_task(policy, name, dataset, bf16) for name, dataset in data.datasets.items()}


def _of_task(policy: PolicyNetwork, task_name: str, dataset: EpisodeDataset, bf16: bool) -> Tensor:
    states = []
    with torch.no_grad(), torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
        for number in range(len(dataset)):
            batch: dict[str, Any] = {**dataset[[number]], "task": task_name}
            states.append(policy.calibration_step(batch)[0].cpu())
    return torch.stack(states)


class WithStates(EpisodeDataset):
    """The sequences of another dataset, each with the hidden states that its head is given: `hidden`."""

    def __init__(self, dataset: EpisodeDataset, hidden: Tensor) -> None:
        self.dataset, self.hidden = dataset, hidden

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, chosen: list[int] | BatchShard) -> Batch:
        own = chosen.own if isinstance(chosen, BatchShard) else chosen
        return {**self.dataset[chosen], "hidden": self.hidden[own]}


class KnownStates(L.LightningDataModule):
    """The batches of a PoolDataModule with `hidden`: task -> (sequences, steps, width) of its sequences."""

    def __init__(self, data: PoolDataModule, hidden: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.data, self.states = data, dict(hidden)

    def setup(self, stage: str | None = None) -> None:
        self.data.setup(stage)
        self.data.datasets = {name: WithStates(one, self.states[name]) for name, one in self.data.datasets.items()}

    def train_dataloader(self) -> Any:
        return self.data.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.data.val_dataloader()
