"""Zero the backbone's matrices once. Works with or without a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from tqdm import tqdm

from edgenetllm.errors import UserError
from edgenetllm.models.decoder import linear_layers, weight_out_in
from edgenetllm.models.policy import DecisionPolicy
from edgenetllm.pruning import magnitude, wanda
from edgenetllm.pruning.calibration import input_sum_of_squares
from edgenetllm.pruning.masks import zeros_wanted


@checked(config=ConfigDict(extra="forbid"))
class Pruning:
    """Options of a `pruning=` choice."""

    method: Literal["magnitude", "wanda"]
    windows: PositiveInt = 64  # calibration sequences from the pool; magnitude needs none

    @property
    def calibrated(self) -> bool:
        return self.method != "magnitude"


@dataclass(frozen=True)
class LayerReport:
    name: str
    zeros: int
    weights: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.weights


@torch.no_grad()
def prune_policy(
    policy: DecisionPolicy, pruning: Pruning, sparsity: float, batches: Iterable[dict[str, object]]
) -> list[LayerReport]:
    """Prune every linear layer of the policy's decoder in place to `sparsity`; encoder, head, norms and biases stay dense.

    The adapter must have been merged. At sparsity 0 no bit changes. Raises UserError if the decoder is sparse already, or
    if a calibrated method is given no batches.
    """
    decoder = policy.decoder
    if sparsity == 0:
        return layer_report(decoder)
    if any(0.01 < row.sparsity < 1 for row in layer_report(decoder)):
        raise UserError("this backbone is pruned already: prune the adaptation that it came from (run=...)")
    statistics: dict[str, Tensor] = {}
    if pruning.calibrated:
        statistics = input_sum_of_squares(
            decoder, tqdm(list(batches), desc="calibration"), _forward(policy), _tokens(policy)
        )
        if not statistics:
            raise UserError(f"pruning={pruning.method} needs calibration data: pruning.windows must be at least 1")
    for name, layer in linear_layers(decoder).items():
        weight = weight_out_in(layer)
        if pruning.method == "magnitude":
            weight.copy_(magnitude.prune(weight, sparsity))
        else:
            weight.copy_(wanda.prune(weight, statistics[name], sparsity))
    assert_sparsity(decoder, sparsity)
    return layer_report(decoder)


def _forward(policy: DecisionPolicy) -> Callable[[dict[str, Any]], Tensor]:
    device = policy.norm.weight.device

    def forward(batch: dict[str, Any]) -> Tensor:
        observation = {name: value.to(device) for name, value in batch["observation"].items()}
        embedded = policy.encoder.embed(observation)
        return policy.hidden(embedded, batch["return_to_go"].to(device), batch["action"].to(device))

    return forward


def _tokens(policy: DecisionPolicy) -> Callable[[dict[str, Any]], Tensor]:
    def tokens(batch: dict[str, Any]) -> Tensor:
        valid: Tensor = batch["valid"].to(policy.norm.weight.device)
        return valid.repeat_interleave(policy.tokens_per_step, dim=1)

    return tokens


def layer_report(decoder: nn.Module) -> list[LayerReport]:
    return [
        LayerReport(name, int((layer.weight == 0).sum()), layer.weight.numel())
        for name, layer in linear_layers(decoder).items()
    ]


def assert_sparsity(decoder: nn.Module, sparsity: float) -> None:
    """Raises UserError unless every linear layer has at least the zeros that were asked for (after a load, say)."""
    for row in layer_report(decoder):
        if row.zeros < zeros_wanted(sparsity, row.weights):
            raise UserError(f"{row.name} has {row.zeros} zeros of {row.weights}, not the {sparsity:.4g} asked for")
