"""Each method against its formula, and the properties that all share."""

from __future__ import annotations

import pytest
import torch

from edgenetllm.errors import UserError
from edgenetllm.pruning import magnitude, wanda


def methods(columns: int):
    squares = torch.rand(columns, generator=torch.Generator().manual_seed(1)) * 10
    return {"magnitude": magnitude.prune, "wanda": lambda weight, sparsity: wanda.prune(weight, squares, sparsity)}


@pytest.mark.parametrize("name", ["magnitude", "wanda"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.4, 0.5, 0.9, 1.0])
def test_zero_counts_are_exact_survivors_untouched_and_pruning_idempotent(name, sparsity):
    weight = torch.randn(7, 13, generator=torch.Generator().manual_seed(0))
    prune = methods(13)[name]
    pruned = prune(weight, sparsity)
    assert int((pruned == 0).sum()) == round(sparsity * weight.numel())
    kept = pruned != 0
    assert torch.equal(pruned[kept], weight[kept])
    assert torch.equal(prune(pruned, sparsity), pruned)
    assert torch.equal(weight, torch.randn(7, 13, generator=torch.Generator().manual_seed(0)))  # a copy was pruned


def test_magnitude_removes_the_smallest_of_the_whole_matrix():
    weight = torch.tensor([[0.1, -0.2, 3.0], [4.0, -5.0, 0.3]])
    assert magnitude.prune(weight, 0.5).tolist() == torch.tensor([[0, 0, 3.0], [4.0, -5.0, 0]]).tolist()


def test_wanda_is_weight_times_input_norm_within_each_output():
    weight = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, -7.0, 8.0]])
    inputs = torch.tensor([[10.0, 1.0, 1.0, 0.1], [0.0, 1.0, 0.0, 0.0]])  # two tokens
    squares = inputs.pow(2).sum(0)
    expected = torch.zeros_like(weight)
    for row in range(2):
        score = weight[row].abs() * inputs.norm(dim=0)
        kept = score.argsort()[2:]
        expected[row, kept] = weight[row, kept]
    assert torch.equal(wanda.prune(weight, squares, 0.5), expected)


def test_calibration_that_is_not_finite_names_the_override():
    with pytest.raises(UserError, match="pruning"):
        wanda.prune(torch.ones(2, 2), torch.tensor([1.0, float("nan")]), 0.5)
