"""Magnitude pruning: the smallest weights go (Han et al., NeurIPS 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.pruning.masks import Pattern, lowest, lowest_in_groups, lowest_per_row, ranked, zeros_wanted
from edgenetllm.pruning.method import Method, Statistic

Scope = Literal["layer", "row"]


def prune(weight: Tensor, sparsity: float, pattern: Pattern | None = None, scope: Scope = "layer") -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros: those of lowest |w| in the matrix.

    `scope="row"` compares within an output instead, every output losing as many; with a `pattern` groups of neighbours
    are compared. Weights that are zero already count as pruned: pruning twice to the same sparsity changes nothing.
    """
    ranking = ranked(weight, weight.abs())
    if pattern is not None:
        return weight.masked_fill(lowest_in_groups(ranking, pattern), 0.0)
    choose = lowest if scope == "layer" else lowest_per_row
    return weight.masked_fill(choose(ranking, zeros_wanted(sparsity, weight.numel())), 0.0)


def global_counts(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """The number of zeros of each matrix when all of them share one ranking by |w|; together round(sparsity · all)."""
    sizes = [weight.numel() for weight in weights.values()]
    everything = torch.cat([weight.abs().flatten().float() for weight in weights.values()])
    count = zeros_wanted(sparsity, len(everything))
    if count == 0:
        return dict.fromkeys(weights, 0)
    threshold = torch.kthvalue(everything, count).values
    below = [int((magnitudes < threshold).sum()) for magnitudes in everything.split(sizes)]
    ties = [int((magnitudes == threshold).sum()) for magnitudes in everything.split(sizes)]
    rest = count - sum(below)
    for number, equal in enumerate(ties):  # of equal weights, those of the first matrices
        taken = min(equal, rest)
        below[number] += taken
        rest -= taken
    return dict(zip(weights, below, strict=True))


@dataclass(config=ConfigDict(extra="forbid"))
class Magnitude(Method):
    """Options of `pruning=magnitude`."""

    scope: Scope = "layer"  # what is compared: all weights of a matrix, or those of an output
    name: ClassVar[str] = "magnitude"
    statistic: ClassVar[Statistic | None] = None

    @property
    def label(self) -> str:
        return self.name if self.scope == "layer" else f"{self.name} per row"

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        return prune(weight, sparsity, pattern, self.scope)
