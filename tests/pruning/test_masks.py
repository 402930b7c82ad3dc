"""Exact counts, whatever the ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.errors import UserError
from edgenetllm.pruning.masks import lowest, lowest_per_row, zeros_wanted

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(shapes, st.floats(0, 1), st.integers(0, 2), st.integers(0, 99))
def test_counts_are_exact_with_many_ties(shape, sparsity, levels, seed):
    score = torch.randint(0, levels + 1, shape, generator=torch.Generator().manual_seed(seed)).float()
    count = zeros_wanted(sparsity, score.numel())
    assert int(lowest(score, count).sum()) == count
    rows = lowest_per_row(score, count)
    assert int(rows.sum()) == count
    per_row = rows.sum(1)
    assert int(per_row.max() - per_row.min()) <= 1


def test_lowest_takes_the_lowest_and_of_equals_the_first():
    score = torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    assert lowest(score, 2).tolist() == [[False, True], [False, True]]


def test_the_remainder_comes_from_the_rows_with_the_lowest_next_score():
    score = torch.tensor([[1.0, 9.0, 9.0], [1.0, 2.0, 9.0]])
    assert lowest_per_row(score, 3).tolist() == [[True, False, False], [True, True, False]]


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_nonsense_sparsity_names_the_override(sparsity):
    with pytest.raises(UserError, match="sparsity="):
        zeros_wanted(sparsity, 10)
