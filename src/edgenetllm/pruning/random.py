"""Random pruning: the floor that every criterion has to beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.pruning.masks import Pattern, lowest, lowest_in_groups, ranked, zeros_wanted
from edgenetllm.pruning.method import Method, Statistic


def prune(weight: Tensor, sparsity: float, seed: int, pattern: Pattern | None = None) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros drawn by `seed`, the same on every device.

    Weights that are zero already are drawn first, so that pruning twice to the same sparsity changes nothing.
    """
    draw = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight.device)
    ranking = ranked(weight, draw)
    if pattern is not None:
        return weight.masked_fill(lowest_in_groups(ranking, pattern), 0.0)
    return weight.masked_fill(lowest(ranking, zeros_wanted(sparsity, weight.numel())), 0.0)


@dataclass(config=ConfigDict(extra="forbid"))
class Random(Method):
    """Options of `pruning=random`."""

    name: ClassVar[str] = "random"
    statistic: ClassVar[Statistic | None] = None

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        return prune(weight, sparsity, seed, pattern)
