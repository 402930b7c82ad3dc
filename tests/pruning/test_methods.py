"""Each method against its formula, and the properties that all share."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from edgenetllm.errors import UserError
from edgenetllm.pruning import alps, magnitude, random, ria, sparsegpt, wanda
from edgenetllm.pruning.masks import Pattern

OUT, IN = 7, 24
CRITERIA = ("magnitude", "magnitude_row", "random", "wanda", "ria")  # they choose weights and leave the others alone
UPDATING = ("sparsegpt", "alps")  # they also update the weights that stay


def inputs(columns: int, tokens: int = 300) -> torch.Tensor:
    """Correlated inputs (tokens, columns), of another size in every column."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(columns, columns, generator=generator) * torch.linspace(0.3, 2, columns)
    return torch.randn(tokens, columns, generator=generator) @ mix


def methods(columns: int) -> dict:
    seen = inputs(columns)
    squares, gram = seen.square().sum(0), seen.T @ seen
    return {
        "magnitude": lambda w, s, p=None: magnitude.prune(w, s, p),
        "magnitude_row": lambda w, s, p=None: magnitude.prune(w, s, p, "row"),
        "random": lambda w, s, p=None: random.prune(w, s, 3, p),
        "wanda": lambda w, s, p=None: wanda.prune(w, squares, s, p),
        "ria": lambda w, s, p=None: ria.prune(w, squares, s, pattern=p),
        "sparsegpt": lambda w, s, p=None: sparsegpt.prune(w, gram, s, block=8, pattern=p),
        "alps": lambda w, s, p=None: alps.prune(w, gram, s, pattern=p),
    }


def weight(rows: int = OUT, columns: int = IN, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def error(pruned: torch.Tensor, dense: torch.Tensor, gram: torch.Tensor) -> float:
    difference = (pruned - dense).double()
    return float(((difference @ gram.double()) * difference).sum())


@pytest.mark.parametrize("name", [*CRITERIA, *UPDATING])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.4, 0.5, 0.9, 0.99])
def test_zero_counts_are_exact_and_a_copy_is_pruned(name, sparsity):
    dense = weight()
    pruned = methods(IN)[name](dense, sparsity)
    assert int((pruned == 0).sum()) == round(sparsity * dense.numel())
    assert torch.equal(dense, weight())
    if sparsity == 0:
        assert torch.equal(pruned, dense)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_criteria_leave_survivors_alone_and_are_idempotent(name, sparsity):
    dense = weight()
    prune = methods(IN)[name]
    pruned = prune(dense, sparsity)
    kept = pruned != 0
    assert torch.equal(pruned[kept], dense[kept])
    assert torch.equal(prune(pruned, sparsity), pruned)


@pytest.mark.parametrize("name", [*CRITERIA, *UPDATING])
def test_going_further_never_fills_a_zero(name):
    """Also where another method left its zeros unevenly: the count is exact and old zeros stay."""
    first = magnitude.prune(weight(), 0.4)
    second = methods(IN)[name](first, 0.6)
    assert bool((second[first == 0] == 0).all())
    assert int((second == 0).sum()) == round(0.6 * first.numel())


def test_alps_keeps_zeros_beyond_what_a_group_needs():
    first = magnitude.prune(weight(), 0.6)
    second = methods(IN)["alps"](first, 0.5, Pattern(2, 4))
    assert bool((second[first == 0] == 0).all())


@pytest.mark.parametrize("name", [*CRITERIA, *UPDATING])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(4, 8)])
def test_every_method_knows_n_of_m(name, pattern):
    pruned = methods(IN)[name](weight(), 0.5, pattern)
    zeros = (pruned == 0).view(OUT, -1, pattern.group).sum(2)
    assert bool((zeros == pattern.group - pattern.kept).all())


@pytest.mark.parametrize("name", [*CRITERIA, *UPDATING])
def test_two_of_four_is_what_torch_stores_semi_structured(name):
    """The compression that torch's sparse kernels load, here on the CPU, gives the same weight back."""
    pruned = methods(128)[name](weight(32, 128), 0.5, Pattern(2, 4)).to(torch.float16)
    values, meta = sparse_semi_structured_from_dense_cutlass(pruned)
    assert values.shape == (32, 64)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, meta), pruned)


def test_groups_that_do_not_divide_name_the_override():
    with pytest.raises(UserError, match=r"pruning\.structure=2:4.*7"):
        magnitude.prune(torch.randn(3, 7), 0.5, Pattern(2, 4))
    with pytest.raises(UserError, match=r"pruning\.method\.block=6"):
        sparsegpt.prune(torch.randn(3, 12), torch.eye(12), 0.5, block=6, pattern=Pattern(2, 4))


def test_magnitude_removes_the_smallest_of_the_whole_matrix():
    dense = torch.tensor([[0.1, -0.2, 3.0], [4.0, -5.0, 0.3]])
    assert magnitude.prune(dense, 0.5).tolist() == torch.tensor([[0, 0, 3.0], [4.0, -5.0, 0]]).tolist()


def test_global_counts_are_one_ranking_over_all():
    matrices = {"a": weight(seed=1), "b": 3 * weight(5, 9, seed=2), "c": torch.ones(4, 4)}
    counts = magnitude.global_counts(matrices, 0.45)
    order = torch.cat([matrix.abs().flatten() for matrix in matrices.values()]).argsort(stable=True)
    zeroed = set(order[: round(0.45 * len(order))].tolist())
    start = 0
    for name, matrix in matrices.items():
        assert counts[name] == sum(start <= index < start + matrix.numel() for index in zeroed)
        start += matrix.numel()


def test_wanda_is_weight_times_input_norm_within_each_output():
    dense = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, -7.0, 8.0]])
    seen = torch.tensor([[10.0, 1.0, 1.0, 0.1], [0.0, 1.0, 0.0, 0.0]])  # two tokens
    expected = torch.zeros_like(dense)
    for row in range(2):
        kept = (dense[row].abs() * seen.norm(dim=0)).argsort()[2:]
        expected[row, kept] = dense[row, kept]
    assert torch.equal(wanda.prune(dense, seen.pow(2).sum(0), 0.5), expected)


def test_ria_is_its_formula():
    dense, seen = weight(3, 4), inputs(4)
    for i, j in itertools.product(range(3), range(4)):
        relative = dense[i, j].abs() / dense[i].abs().sum() + dense[i, j].abs() / dense[:, j].abs().sum()
        expected = relative * seen[:, j].norm() ** 0.5
        torch.testing.assert_close(ria.score(dense, seen.square().sum(0))[i, j], expected)


def optimum(dense: torch.Tensor, gram: torch.Tensor, kept: int) -> float:
    """The least error with `kept` weights in every row: every mask tried, least squares for each."""
    total = 0.0
    for row in dense.double():
        best = float("inf")
        for chosen in itertools.combinations(range(len(row)), kept):
            c = list(chosen)
            solved = torch.zeros_like(row)
            solved[c] = torch.linalg.solve(gram.double()[c][:, c], (gram.double() @ row)[c])
            best = min(best, error(solved[None], row[None], gram))
        total += best
    return total


def test_sparsegpt_and_alps_against_the_brute_force_optimum():
    """8 x 8, half the weights of every row (1:2 groups would restrict; one row at a time makes the count per row exact)."""
    dense, seen = weight(8, 8), inputs(8)
    gram = seen.T @ seen
    rows = range(8)
    least = optimum(dense, gram, 4)
    found = {
        "sparsegpt": sum(
            error(sparsegpt.prune(dense[r : r + 1], gram, 0.5, damping=1e-6), dense[r : r + 1], gram) for r in rows
        ),
        "alps": sum(error(alps.prune(dense[r : r + 1], gram, 0.5, damping=1e-6), dense[r : r + 1], gram) for r in rows),
        "wanda": error(wanda.prune(dense, gram.diagonal(), 0.5), dense, gram),
        "magnitude": error(magnitude.prune(dense, 0.5, scope="row"), dense, gram),
    }
    assert all(least <= value * (1 + 1e-4) for value in found.values())
    assert found["sparsegpt"] < found["wanda"]
    assert found["sparsegpt"] < found["magnitude"]
    assert found["sparsegpt"] < 3 * least
    assert found["alps"] < 1.5 * least


def test_sparsegpt_is_optimal_where_its_order_does_not_matter():
    """One weight per row to prune, and it is the first: all other columns follow, so the update is the exact optimum."""
    dense, seen = weight(8, 8), inputs(8)
    gram = seen.T @ seen
    dense[:, 0] *= 1e-3  # the least salient, whatever the row
    pruned = sparsegpt.prune(dense, gram, 1 / 8, damping=1e-7)
    assert bool((pruned[:, 0] == 0).all())
    kept = slice(1, 8)
    solved = torch.linalg.solve(gram.double()[kept, kept], (gram.double() @ dense.double().T)[kept]).T
    torch.testing.assert_close(pruned[:, kept].double(), solved, rtol=1e-3, atol=1e-4)


def test_blocks_of_sparsegpt_are_a_matter_of_memory_only_where_the_mask_is_given():
    """With N:M groups the mask does not depend on the block, and neither do the weights."""
    dense, seen = weight(6, 32), inputs(32)
    gram = seen.T @ seen
    one, many = (sparsegpt.prune(dense, gram, 0.5, block=b, pattern=Pattern(2, 4)) for b in (32, 8))
    torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-4)


def test_conjugate_gradients_find_the_least_squares_weights_of_a_mask():
    dense, seen = weight(5, 12), inputs(12)
    hessian = (seen.T @ seen) / len(seen)
    mask = torch.rand(5, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    found = alps.conjugate_gradients(dense * mask, dense, hessian, mask, 100)
    for row in range(5):
        c = mask[row].nonzero()[:, 0]
        solved = torch.linalg.solve(hessian[c][:, c], (hessian @ dense[row])[c])
        torch.testing.assert_close(found[row, c], solved, rtol=1e-3, atol=1e-3)
    assert bool((found[~mask] == 0).all())


def test_damping_is_raised_where_the_gram_matrix_is_singular():
    few = torch.ones(1, 16)  # one token: rank 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pruned = sparsegpt.prune(weight(4, 16), few.T @ few, 0.5, damping=1e-9)
    assert any("damping" in str(warning.message) for warning in caught)
    assert bool(torch.isfinite(pruned).all())
    assert int((pruned == 0).sum()) == 32


def test_inputs_that_were_never_seen_go_first():
    seen = inputs(8)
    seen[:, 5] = 0
    assert bool((sparsegpt.prune(weight(4, 8), seen.T @ seen, 1 / 8)[:, 5] == 0).all())
    assert bool((sparsegpt.prune(weight(4, 8), seen.T @ seen, 0.5, pattern=Pattern(2, 4))[:, 5] == 0).all())


def test_random_is_a_function_of_the_seed():
    assert torch.equal(random.prune(weight(), 0.5, 1), random.prune(weight(), 0.5, 1))
    assert not torch.equal(random.prune(weight(), 0.5, 1), random.prune(weight(), 0.5, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite_is_said(bad):
    gram = torch.eye(4)
    gram[1, 2] = bad
    for prune in (sparsegpt.prune, alps.prune):
        with pytest.raises(UserError, match="pruning"):
            prune(torch.ones(2, 4), gram, 0.5)
    with pytest.raises(UserError, match="pruning"):
        wanda.prune(torch.ones(2, 2), torch.tensor([1.0, bad]), 0.5)
