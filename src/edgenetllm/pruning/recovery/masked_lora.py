"""LoRA through the mask: W + M ⊙ (BA), so that what is learnt can be merged without filling a zero."""

from __future__ import annotations

import math

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgenetllm.models.decoder import prunable_layers
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.option_types import Count, LearningRate, Text
from edgenetllm.pruning.recovery.recover import RecoveryContext


class MaskedUpdate(nn.Module):
    """A parametrisation of a weight (rows, columns): adds a product of rank `rank` where the weight is not zero."""

    mask: Tensor

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        start = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.a = nn.Parameter(start.to(weight.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.register_buffer("mask", weight != 0)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.mask * (self.b @ self.a)


@dataclass(config=ConfigDict(extra="forbid"))
class MaskedLora:
    """`recovery=masked_lora`: all matrices of the backbone; encoder and head stay as they are."""

    name: Text = "masked_lora"
    rank: Count = 16
    steps: Count = 60  # of the optimizer
    batch_size: Count = 8  # sequences
    lr: LearningRate = 1e-3

    def recover(self, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext) -> int:
        from edgenetllm.pruning.recovery.fit import fit  # imports Lightning: only where something learns

        policy.requires_grad_(False)
        generator = torch.Generator().manual_seed(context.seed)
        layers = prunable_layers(policy.decoder)
        for layer in layers.values():
            parametrize.register_parametrization(layer, "weight", MaskedUpdate(layer.weight.data, self.rank, generator))
        trained = fit(
            policy, context, steps=self.steps, batch_size=self.batch_size, decoder_lr=self.lr, task_lr=self.lr
        )
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return trained
