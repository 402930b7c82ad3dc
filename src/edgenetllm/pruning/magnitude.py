"""Magnitude pruning: the smallest weights of a matrix go (Han et al., NeurIPS 2015)."""

from __future__ import annotations

from torch import Tensor

from edgenetllm.pruning.masks import lowest, zeros_wanted


def prune(weight: Tensor, sparsity: float) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros: those of lowest |w| in the whole matrix.

    Weights that are zero already count as pruned, so that pruning twice to the same sparsity changes nothing.
    """
    return weight.masked_fill(lowest(weight.abs(), zeros_wanted(sparsity, weight.numel())), 0.0)
