"""ALPS: the layer's reconstruction as an optimisation, by ADMM, then conjugate gradients (Meng et al., NeurIPS 2024).

SparseGPT decides column by column and never looks back; here mask and weights are found together. It needs an
eigendecomposition of the gram matrix and tens of products with it for every layer.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.option_types import Count, CountOrZero, Positive
from edgenetllm.pruning.masks import Pattern, lowest, lowest_in_groups, zeros_wanted
from edgenetllm.pruning.method import Method, Statistic
from edgenetllm.pruning.one_thread import one_thread


def prune(
    weight: Tensor,
    gram: Tensor,
    sparsity: float,
    iterations: int = 15,
    refinements: int = 10,
    damping: float = 0.01,
    pattern: Pattern | None = None,
) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros and the other weights updated, in its dtype.

    `gram` (in, in) is XᵀX over the calibration tokens. Minimises ‖X(W − W₀)ᵀ‖² under the count of zeros: ADMM splits W into
    a free and a sparse copy whose penalty grows (section 3.1), then `refinements` steps of conjugate gradients solve for the
    weights of the final mask (section 3.2). Inputs are scaled to unit diagonal first, as there. Computed in float32.
    Weights that are zero already stay zero and count. Raises UserError for a gram matrix that is not finite.
    """
    if sparsity == 0:
        return weight.clone()
    if not bool(torch.isfinite(gram).all()):
        raise UserError("pruning=alps: the calibration activations are not finite; see pruning.calibration")
    count = zeros_wanted(sparsity, weight.numel())
    old = weight == 0
    hessian = gram.to(weight.device).float()
    scale = hessian.diagonal().clamp(min=1e-12 * float(hessian.diagonal().max()) + 1e-30).sqrt()
    hessian = hessian / scale[:, None] / scale[None, :]
    hessian.diagonal().add_(damping)
    dense = weight.float() * scale
    mask = ~(_admm(dense, hessian, count, iterations, old, pattern) | old)
    solved = conjugate_gradients(dense * mask, dense, hessian, mask, refinements) / scale
    result = solved.to(weight.dtype)
    return result.masked_fill(result == 0, torch.finfo(weight.dtype).tiny).masked_fill(~mask, 0.0)


def _admm(dense: Tensor, hessian: Tensor, count: int, iterations: int, old: Tensor, pattern: Pattern | None) -> Tensor:
    """The weights to zero, (out, in): where the sparse copy ends."""
    with one_thread():
        values, vectors = torch.linalg.eigh(hessian)
    target = dense @ hessian
    penalty = 0.1
    sparse, dual = dense.clone(), torch.zeros_like(dense)
    before = None
    for iteration in range(iterations):
        free = ((target - dual + penalty * sparse) @ vectors / (values + penalty)) @ vectors.T
        proposal = free + dual / penalty
        score = proposal.square().masked_fill(old, -torch.inf)
        last = iteration == iterations - 1
        chosen = lowest_in_groups(score, pattern) if pattern is not None else _lowest(score, count, exact=last)
        sparse = proposal.masked_fill(chosen, 0.0)
        dual = dual + penalty * (free - sparse)
        if iteration % 3 == 2:  # the longer the mask keeps changing, the more it is held
            changed = 1.0 if before is None else float((chosen ^ before).sum()) / max(1, count)
            penalty *= 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1
            before = chosen
    return chosen


def _lowest(score: Tensor, count: int, exact: bool) -> Tensor:
    """The same as `lowest`; while iterating, by a threshold, which is faster and may differ by ties."""
    return lowest(score, count) if exact else score <= torch.kthvalue(score.flatten(), max(1, count)).values


def conjugate_gradients(start: Tensor, dense: Tensor, hessian: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Minimise tr((W − dense) H (W − dense)ᵀ) over the weights of `mask` (out, in), preconditioned by H's diagonal.

    Each output (row) is a problem of its own; all are solved side by side. Never worse than `start`.
    """
    solution = start.clone()
    residual = ((dense - solution) @ hessian) * mask
    preconditioned = residual / hessian.diagonal()
    direction = preconditioned.clone()
    product = (residual * preconditioned).sum(1)
    for _ in range(steps):
        curved = (direction @ hessian) * mask
        length = product / (direction * curved).sum(1).clamp(min=1e-30)
        solution += length[:, None] * direction
        residual -= length[:, None] * curved
        preconditioned = residual / hessian.diagonal()
        following = (residual * preconditioned).sum(1)
        direction = preconditioned + (following / product.clamp(min=1e-30))[:, None] * direction
        product = following
    return solution


@dataclass(config=ConfigDict(extra="forbid"))
class Alps(Method):
    """Options of `pruning=alps`."""

    iterations: Count = 15  # of ADMM
    refinements: CountOrZero = 10  # steps of conjugate gradients for the weights that stay
    damping: Positive = 0.01  # in units of the scaled gram matrix's diagonal, which is 1
    name: ClassVar[str] = "alps"
    statistic: ClassVar[Statistic | None] = "gram"

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        assert statistic is not None
        return prune(weight, statistic, sparsity, self.iterations, self.refinements, self.damping, pattern)
