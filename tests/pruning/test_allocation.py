"""The zeros of all layers together are exact, whatever the shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.errors import UserError
from edgenetllm.pruning.allocation import counts_of, exact_counts, outlier_ratio, spread

layers = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500), st.floats(0, 0.5)), min_size=1, max_size=9)


@settings(max_examples=80, deadline=None)
@given(layers, st.floats(0.5, 1))
def test_the_total_is_exact_and_no_layer_leaves_its_bounds(layers, sparsity):
    shares, sizes, zeros = zip(*layers, strict=True)
    least = [int(share * size) for share, size in zip(zeros, sizes, strict=True)]
    total = max(round(sparsity * sum(sizes)), sum(least))
    counts = exact_counts(shares, sizes, total, least)
    assert sum(counts) == total
    assert all(low <= count <= size for low, count, size in zip(least, counts, sizes, strict=True))


def test_uniform_shares_stay_within_one_weight_of_their_layer():
    sizes = {"a": 101, "b": 7, "c": 333}
    counts = counts_of(dict.fromkeys(sizes, 0.4), sizes, 0.4, dict.fromkeys(sizes, 0))
    assert sum(counts.values()) == round(0.4 * 441)
    assert all(abs(counts[name] - 0.4 * size) < 1 for name, size in sizes.items())


def test_less_than_is_zero_already_is_refused():
    with pytest.raises(UserError, match="never goes back"):
        exact_counts([0.5, 0.5], [10, 10], 5, [6, 6])


def test_important_blocks_keep_more_and_the_mean_is_met():
    shares = spread([0.0, 1.0, 4.0], 0.6, 0.08)
    assert shares[0] > shares[1] > shares[2]
    assert sum(shares) / 3 == pytest.approx(0.6)
    assert max(shares) - min(shares) == pytest.approx(2 * 0.08)
    assert spread([2.0, 2.0], 0.6, 0.08) == [0.6, 0.6]


def test_outliers_are_scores_above_a_multiple_of_the_mean():
    weight = torch.ones(2, 10)
    weight[0, 3] = 100.0
    assert outlier_ratio(weight, torch.ones(10)) == pytest.approx(1 / 20)


def test_importance_that_is_not_finite_names_the_override():
    with pytest.raises(UserError, match=r"pruning\.allocation"):
        spread([1.0, float("nan")], 0.5, 0.1)
