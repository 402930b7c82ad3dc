"""Wanda: weights ranked by |w| times the norm of their input, compared within an output (Sun et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.pruning.masks import lowest_per_row, zeros_wanted


def score(weight: Tensor, sum_of_squares: Tensor) -> Tensor:
    """|w_ij| · ||x_j||_2, (out, in); `sum_of_squares` (in,) are the column sums of X² over the calibration tokens."""
    return weight.abs().float() * sum_of_squares.float().sqrt()[None, :]


def prune(weight: Tensor, sum_of_squares: Tensor, sparsity: float) -> Tensor:
    """A copy of `weight` (out, in) with round(sparsity · numel) zeros, spread evenly over the outputs (rows).

    Weights that are zero already rank below every other, so that pruning twice to the same sparsity changes nothing.
    Raises UserError for calibration statistics that are negative or not finite.
    """
    if not bool(torch.isfinite(sum_of_squares).all()) or bool((sum_of_squares < 0).any()):
        raise UserError("pruning=wanda: the calibration activations are not finite; see pruning.windows")
    ranking = score(weight, sum_of_squares).masked_fill(weight == 0, -1.0)
    return weight.masked_fill(lowest_per_row(ranking, zeros_wanted(sparsity, weight.numel())), 0.0)
