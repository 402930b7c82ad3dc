"""Exact selection of the weights to zero: never one more or one fewer than asked, ties broken by index."""

from __future__ import annotations

import torch
from torch import Tensor

from edgenetllm.errors import UserError


def zeros_wanted(sparsity: float, weights: int) -> int:
    """Number of zeros among `weights`. Raises UserError outside [0, 1]."""
    if not 0 <= sparsity <= 1:
        raise UserError(f"sparsity={sparsity}: give a share in [0, 1)")
    return round(sparsity * weights)


def lowest(score: Tensor, count: int) -> Tensor:
    """Boolean mask of the `count` lowest scores of a tensor of any shape; of equal scores, the first ones."""
    order = torch.sort(score.flatten(), stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:count]] = True
    return mask.view_as(score)


def lowest_per_row(score: Tensor, count: int) -> Tensor:
    """Mask of `count` low scores in all of (rows, columns), spread evenly over the rows.

    Every row gives count // rows; the remainder comes from the rows whose next score is lowest, one each.
    """
    rows = len(score)
    each, rest = divmod(count, rows)
    order = torch.sort(score, dim=1, stable=True).indices
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask.scatter_(1, order[:, :each], True)
    if rest:
        following = order[:, each : each + 1]
        chosen = lowest(score.gather(1, following)[:, 0], rest)
        mask[chosen, following[chosen, 0]] = True
    return mask
