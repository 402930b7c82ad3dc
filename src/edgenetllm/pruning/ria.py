"""RIA: relative importance and activations (Zhang et al., "Plug-and-Play", ICLR 2024)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.option_types import NUMBER
from edgenetllm.pruning.masks import Pattern, lowest, lowest_in_groups, ranked, zeros_wanted
from edgenetllm.pruning.method import Method, Statistic


def score(weight: Tensor, sum_of_squares: Tensor, exponent: float = 0.5) -> Tensor:
    """(|w_ij| / sum of its row + |w_ij| / sum of its column) · ||x_j||_2^exponent, (out, in) (equations 4 and 5).

    A weight matters if it is a large part of its output or of its input, so that no channel is cut off whole.
    """
    size = weight.abs().float()
    tiny = 1e-38  # rows and columns of zeros
    relative = size / size.sum(1, keepdim=True).clamp(min=tiny) + size / size.sum(0, keepdim=True).clamp(min=tiny)
    return relative * sum_of_squares.float().sqrt()[None, :] ** exponent


def prune(
    weight: Tensor, sum_of_squares: Tensor, sparsity: float, exponent: float = 0.5, pattern: Pattern | None = None
) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros, the lowest scores of the whole matrix.

    `sum_of_squares` (in,) are the column sums of X² over the calibration tokens. Weights that are zero already rank below
    every other; the scores of the others change with them, but not which ones go.
    """
    ranking = ranked(weight, score(weight, sum_of_squares, exponent))
    if pattern is not None:
        return weight.masked_fill(lowest_in_groups(ranking, pattern), 0.0)
    return weight.masked_fill(lowest(ranking, zeros_wanted(sparsity, weight.numel())), 0.0)


@dataclass(config=ConfigDict(extra="forbid"))
class Ria(Method):
    """Options of `pruning=ria`."""

    exponent: Annotated[float, Field(ge=0, le=100), NUMBER] = 0.5  # of the activations' norm
    name: ClassVar[str] = "ria"
    statistic: ClassVar[Statistic | None] = "sum_of_squares"

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        assert statistic is not None
        return prune(weight, statistic, sparsity, self.exponent, pattern)
