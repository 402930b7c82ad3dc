"""Wanda: weights ranked by |w| times the norm of their input, compared within an output (Sun et al., ICLR 2024)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.pruning.masks import Pattern, lowest_in_groups, lowest_per_row, ranked, zeros_wanted
from edgenetllm.pruning.method import Method, Statistic


def score(weight: Tensor, sum_of_squares: Tensor) -> Tensor:
    """|w_ij| · ||x_j||_2, (out, in); `sum_of_squares` (in,) are the column sums of X² over the calibration tokens."""
    return weight.abs().float() * sum_of_squares.float().sqrt()[None, :]


def prune(weight: Tensor, sum_of_squares: Tensor, sparsity: float, pattern: Pattern | None = None) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros, spread evenly over the outputs (rows).

    Weights that are zero already rank below every other, so that pruning twice to the same sparsity changes nothing.
    Raises UserError for calibration statistics that are negative or not finite.
    """
    ranking = ranked(weight, score(weight, sum_of_squares))
    if pattern is not None:
        return weight.masked_fill(lowest_in_groups(ranking, pattern), 0.0)
    return weight.masked_fill(lowest_per_row(ranking, zeros_wanted(sparsity, weight.numel())), 0.0)


@dataclass(config=ConfigDict(extra="forbid"))
class Wanda(Method):
    """Options of `pruning=wanda`."""

    name: ClassVar[str] = "wanda"
    statistic: ClassVar[Statistic | None] = "sum_of_squares"

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        assert statistic is not None
        return prune(weight, statistic, sparsity, pattern)
