"""Intervals against known values, against scipy, and against the coverage that they promise."""

import numpy as np
import pytest
from scipy import stats

from edgenetllm.report import bootstrap
from edgenetllm.report.bootstrap import Estimate, difference_ci, mean_ci, ratio_ci, unpaired_seeds_ci


def test_a_mean_of_many_normals_has_the_textbook_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    estimate = mean_ci(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.ci95 == pytest.approx([values.mean() - half, values.mean() + half], abs=0.05 * half)
    assert estimate.n == 2000


def test_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(1, 40)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    assert mean_ci(values).ci95 == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_paired_ratio_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    dense = rng.exponential(1, 60) + 0.5
    sparse = 0.9 * dense + rng.normal(0, 0.1, 60)
    theirs = stats.bootstrap(
        (sparse, dense),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    ours = ratio_ci(sparse, dense)
    assert ours is not None
    assert ours.mean == pytest.approx(sparse.mean() / dense.mean())
    assert ours.ci95 == pytest.approx([theirs.low, theirs.high], abs=0.004)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    intervals = [mean_ci(rng.normal(0, 1, 50), seed=i, resamples=400).ci95 for i in range(400)]
    assert 0.90 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.98


def test_pairing_removes_the_spread_between_episodes() -> None:
    easy_to_hard = np.linspace(1, 100, 50)
    assert difference_ci(easy_to_hard + 1, easy_to_hard).ci95 == pytest.approx([1, 1])
    ratio = ratio_ci(0.9 * easy_to_hard, easy_to_hard)
    assert ratio is not None
    assert ratio.ci95 == pytest.approx([0.9, 0.9])


def test_retention_turns_over_where_lower_is_better() -> None:
    dense, sparse = np.full(4, 10.0), np.full(4, 20.0)  # seconds: the sparse model is twice as slow
    ratio = ratio_ci(sparse, dense, higher_is_better=False)
    assert ratio is not None
    assert ratio.mean == 0.5


@pytest.mark.parametrize(
    ("sparse", "dense", "higher"),
    [([1, 1], [-1, -1], True), ([0, 0], [1, 1], False), ([0, 0], [0, 0], False), ([1, 1, 1], [0, 0, 1], True)],
)
def test_no_ratio_where_it_would_say_nothing(sparse: list[float], dense: list[float], higher: bool) -> None:
    assert ratio_ci(sparse, dense, higher_is_better=higher) is None


def test_same_seed_same_interval_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(0, 1, 64)
    first = mean_ci(values, seed=7)
    monkeypatch.setattr(bootstrap, "_CHUNK", 6400)
    assert mean_ci(values, seed=7) == first
    assert mean_ci(values, seed=8) != first


def test_one_episode_has_no_width_and_says_so() -> None:
    assert mean_ci([2.5]) == Estimate(mean=2.5, ci95=(2.5, 2.5), n=1)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[[1.0, 2.0]]], [np.inf]])
def test_bad_samples_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="bootstrap needs"):
        mean_ci(values)


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        ratio_ci([1.0, 2.0], [1.0])


def test_one_training_seed_is_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(5)
    dense = rng.exponential(1, 40) + 0.5
    sparse = 0.9 * dense + rng.normal(0, 0.1, 40)
    for higher in (True, False):
        plain, crossed = ratio_ci(sparse, dense, higher, seed=3), ratio_ci([sparse], [dense], higher, seed=3)
        assert plain is not None
        assert crossed is not None
        assert crossed.ci95 == pytest.approx(plain.ci95, rel=1e-12)
        assert crossed.mean == pytest.approx(plain.mean)
    assert mean_ci([sparse]).ci95 == pytest.approx(mean_ci(sparse).ci95, rel=1e-12)


def test_seeds_and_episodes_are_crossed_as_in_a_slow_loop() -> None:
    rng = np.random.default_rng(6)
    dense = 2 + rng.normal(0, 0.5, (1, 30)) + rng.normal(0, 0.3, (4, 1))
    sparse = dense * rng.normal(0.9, 0.05, (4, 1)) * rng.normal(1, 0.05, (4, 30))
    ratios, means = [], []
    for _ in range(4000):
        grid = np.ix_(rng.integers(0, 4, 4), rng.integers(0, 30, 30))  # every drawn seed plays every drawn episode
        ratios.append(sparse[grid].mean() / dense[grid].mean())
        means.append(sparse[grid].mean())
    ours = ratio_ci(sparse, dense)
    assert ours is not None
    assert ours.mean == pytest.approx(sparse.mean() / dense.mean())
    assert ours.ci95 == pytest.approx(np.quantile(ratios, [0.025, 0.975]).tolist(), abs=0.004)
    assert mean_ci(sparse).ci95 == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.02)


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not() -> None:
    episodes = np.random.default_rng(7).normal(5, 1, 50)
    alone, same = mean_ci(episodes), mean_ci([episodes] * 3)
    assert same.ci95 == pytest.approx(alone.ci95, rel=1e-12)
    apart = mean_ci([episodes - 1, episodes, episodes + 1])
    assert np.ptp(apart.ci95) > 1.5 * np.ptp(alone.ci95)


@pytest.mark.parametrize(("dense", "higher"), [([[-1.0, -1.0]], True), ([[0.0, 1.0]], True), ([[1.0, 1.0]], False)])
def test_no_crossed_ratio_where_it_would_say_nothing(dense: list[list[float]], higher: bool) -> None:
    assert ratio_ci([[0.0, 0.0]], dense, higher) is None


@pytest.mark.parametrize("values", [2.0, [[]], [[1.0, np.nan]]])
def test_bad_crossed_samples_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="bootstrap needs"):
        mean_ci(values)


def test_a_difference_of_two_groups_of_seeds_knows_the_spread_of_both() -> None:
    rng = np.random.default_rng(5)
    episodes = rng.exponential(1, 40)
    a, b = episodes + rng.normal(0.3, 0.05, (3, 1)), episodes + rng.normal(0, 0.05, (4, 1))
    estimate = unpaired_seeds_ci(a, b)
    low, high = estimate.ci95
    assert estimate.mean == pytest.approx(a.mean() - b.mean())
    assert low < estimate.mean < high
    assert high - low < 0.2  # the spread between episodes is common to both
    own, other = (unpaired_seeds_ci(x, y).ci95 for x, y in ((a, b[:1]), (a[:1], b)))
    assert max(own[1] - own[0], other[1] - other[0]) < high - low
    assert unpaired_seeds_ci(a[:1], b[:1]).ci95 == pytest.approx([(a[0] - b[0]).mean()] * 2)
    with pytest.raises(ValueError, match="differ in episodes"):
        unpaired_seeds_ci(a, b[:, :5])
