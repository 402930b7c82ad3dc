"""SparseGPT: prune column by column, and let the columns that follow make up for the error (Frantar and Alistarh, 2023)."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.option_types import Count, Positive
from edgenetllm.pruning.masks import Pattern, lowest, lowest_in_groups, zeros_wanted
from edgenetllm.pruning.method import Method, Statistic
from edgenetllm.pruning.one_thread import one_thread

ATTEMPTS = 6  # Cholesky factorisations, the damping ten times larger each time


def prune(
    weight: Tensor,
    gram: Tensor,
    sparsity: float,
    block: int = 128,
    damping: float = 0.01,
    pattern: Pattern | None = None,
) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros and the other weights updated, in its dtype.

    `gram` (in, in) is XᵀX over the calibration tokens; `damping`, in units of its mean diagonal, is added to it. Within a
    block of columns the weights of least w² / [H⁻¹]_jj go; zeros are spread over the blocks by size. Computed in float32
    on the weight's device. Weights that are zero already stay zero and count.

    Raises UserError for a gram matrix that is not finite or cannot be factorised, and for a block that the groups of a
    `pattern` do not divide.
    """
    # The inverse Hessian, and the zeros of each block of columns.
    if sparsity == 0:
        return weight.clone()
    if pattern is not None and block % pattern.group:
        raise UserError(
            f"pruning.method.block={block} cannot be divided into the groups of pruning.structure={pattern}"
        )
    work = weight.float().clone()
    factor = inverse_factor(gram.to(work.device), damping)
    dead = gram.diagonal().to(work.device) <= 0
    zero = weight == 0
    starts = range(0, work.shape[1], block)
    counts = _counts_per_block(
        zero, zeros_wanted(sparsity, weight.numel()), [min(s + block, work.shape[1]) for s in starts]
    )
    # Block by block: choose what goes, then let later columns make up for it.
    for start, count in zip(starts, counts, strict=True):
        columns = work[:, start : start + block]
        upper = factor[start : start + block, start : start + block]
        pruned = zero[:, start : start + block]  # written to below, a view
        unseen = dead[start : start + block]
        if pattern is None:
            pruned |= lowest(_saliency(columns, upper.diagonal(), unseen, pruned), count)
        error = torch.zeros_like(columns)
        for j in range(columns.shape[1]):
            if pattern is not None and j % pattern.group == 0:
                group = slice(j, j + pattern.group)
                score = _saliency(columns[:, group], upper.diagonal()[group], unseen[group], pruned[:, group])
                pruned[:, group] |= lowest_in_groups(score, pattern)
            error[:, j] = columns[:, j].masked_fill(~pruned[:, j], 0.0) / upper[j, j]
            columns[:, j:] -= error[:, j, None] * upper[j, j:]
        work[:, start + block :] -= error @ factor[start : start + block, start + block :]
    # Exact zeros, and no others.
    tiny = torch.finfo(weight.dtype).tiny
    result = work.to(weight.dtype)
    return result.masked_fill(result == 0, tiny).masked_fill(zero, 0.0)  # a kept weight is never zero by accident


def _saliency(weight: Tensor, diagonal: Tensor, unseen: Tensor, pruned: Tensor) -> Tensor:
    """w² / [H⁻¹]_jj, (out, columns); inputs that were never seen are free, and old zeros come before all."""
    score = (weight / diagonal).square().masked_fill(unseen, -1.0)
    return score.masked_fill(pruned, -torch.inf)


@one_thread()
def inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped gram matrix, (in, in) float32.

    Raises UserError for a matrix that is not finite, or that ten thousand times the damping do not make positive definite.
    """
    if not bool(torch.isfinite(gram).all()):
        raise UserError("pruning=sparsegpt: the calibration activations are not finite; see pruning.calibration")
    hessian = gram.float().clone()
    diagonal = hessian.diagonal()  # a view
    diagonal[diagonal <= 0] = 1.0
    mean = float(diagonal.mean())
    identity = torch.eye(len(hessian), device=hessian.device)
    for attempt in range(ATTEMPTS):
        strength = damping * 10**attempt
        lower, failed = torch.linalg.cholesky_ex(hessian + strength * mean * identity)
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and bool(torch.isfinite(upper).all()):
                return upper
        warnings.warn(
            f"SparseGPT: damping {strength:g} is too small for this layer, trying ten times more", stacklevel=2
        )
    raise UserError(
        f"pruning.method.damping={damping}: the calibration data of a layer is degenerate; give more windows"
    )


def _counts_per_block(zero: Tensor, count: int, stops: list[int]) -> list[int]:
    """Zeros of each block of columns, old ones included: new ones in proportion to the weights that are left."""
    done = [int(zero[:, :stop].sum()) for stop in stops]
    left = [zero.shape[0] * stop - before for stop, before in zip(stops, done, strict=True)]
    fresh = max(0, count - done[-1])
    until = [before + round(fresh * here / max(1, left[-1])) for before, here in zip(done, left, strict=True)]
    return [now - before for now, before in zip(until, [0, *until], strict=False)]


@dataclass(config=ConfigDict(extra="forbid"))
class SparseGpt(Method):
    """Options of `pruning=sparsegpt`."""

    block: Count = 128  # columns pruned before the rest is updated
    damping: Positive = 0.01  # in units of the gram matrix's mean diagonal
    name: ClassVar[str] = "sparsegpt"
    statistic: ClassVar[Statistic | None] = "gram"

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        assert statistic is not None
        return prune(weight, statistic, sparsity, self.block, self.damping, pattern)
