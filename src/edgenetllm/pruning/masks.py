"""Exact selection of the weights to zero: never one more or one fewer than asked, ties broken by index."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgenetllm.errors import UserError


@dataclass(frozen=True)
class Pattern:
    """N:M structure: of every `group` neighbours along the inputs, `kept` stay (2:4 is `Pattern(2, 4)`)."""

    kept: int
    group: int

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.group

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"


def zeros_wanted(sparsity: float, weights: int) -> int:
    """Number of zeros among `weights`. Raises UserError outside [0, 1]."""
    if not 0 <= sparsity <= 1:
        raise UserError(f"sparsity={sparsity}: give a share in [0, 1)")
    return round(sparsity * weights)


def ranked(weight: Tensor, score: Tensor) -> Tensor:
    """`score` with the weights that are zero already below all others, so that pruning again starts with them.

    Raises UserError for a score that is not finite: nothing can be ranked by it.
    """
    if not bool(torch.isfinite(score).all()):
        raise UserError("pruning: the scores of a layer are not finite; its weights or calibration data are broken")
    return score.masked_fill(weight == 0, -torch.inf)


def lowest(score: Tensor, count: int) -> Tensor:
    """Boolean mask of the `count` lowest scores of a tensor of any shape; of equal scores, the first ones."""
    order = torch.sort(score.flatten(), stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:count]] = True
    return mask.view_as(score)


def lowest_per_row(score: Tensor, count: int) -> Tensor:
    """Mask of `count` low scores in all of (rows, columns), spread over the rows as evenly as can be.

    Every row gives the same number, or those of its scores that are -inf where they are more; the remainder comes from the
    rows whose next score is lowest, one each.
    """
    forced = (score == -torch.inf).sum(1)
    each = _level(forced, count, score.shape[1])
    taken = forced.clamp(min=each)
    order = torch.sort(score, dim=1, stable=True)
    place = torch.arange(score.shape[1], device=score.device)
    mask = torch.zeros_like(score, dtype=torch.bool).scatter_(1, order.indices, place < taken[:, None])
    rest = count - int(taken.sum())
    if rest > 0:
        following = torch.where(forced <= each, order.values[:, min(each, score.shape[1] - 1)], torch.inf)
        chosen = lowest(following, rest)
        mask[chosen, order.indices[chosen, each]] = True
    return mask


def lowest_in_groups(score: Tensor, pattern: Pattern) -> Tensor:
    """Mask of the lowest `group - kept` scores in every group of neighbours within a row of (rows, columns).

    Raises UserError when the groups do not divide the columns.
    """
    rows, columns = score.shape
    if columns % pattern.group:
        raise UserError(f"pruning.structure={pattern}: a layer's {columns} inputs cannot be divided by {pattern.group}")
    groups = score.reshape(rows, -1, pattern.group)
    order = torch.sort(groups, dim=2, stable=True).indices[..., : pattern.group - pattern.kept]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order, True).view(rows, columns)


def _level(forced: Tensor, count: int, columns: int) -> int:
    """The greatest number that every row can give, where rows that must give more do, without exceeding `count`."""
    low, high = 0, columns
    while low < high:
        middle = (low + high + 1) // 2
        if int(forced.clamp(min=middle).sum()) <= count:
            low = middle
        else:
            high = middle - 1
    return low
