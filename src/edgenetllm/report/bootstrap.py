"""Percentile bootstrap intervals over episodes: what is drawn again is the trace or workload, not the decision.

Sparse, dense and baseline policies play the same episodes, so comparisons draw the same episodes for both sides
(paired): that removes the spread between easy and hard traces, which is far larger than the difference between two
policies.

Where a model was trained with several seeds, training seeds and episodes are drawn again, independently of each other
(crossed), as every seed's model plays the same episodes. Few seeds say little about seeds: with three of them such an
interval is narrower than it should be, and with one it is about the episodes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK = 1 << 20  # indices drawn at once: 8 MiB, whatever the number of episodes


class Estimate(TypedDict):
    """A mean, its 95 % interval and the number of episodes behind it."""

    mean: float
    ci95: list[float]
    n: int


def mean_ci(values: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean over episodes (episodes,). One episode gives an interval of width 0, which `n` gives away.

    Raises ValueError for no episode at all, NaN or infinity.
    """
    (data,) = _checked(values)
    means = np.concatenate([data[index].mean(1) for index in _draws(len(data), seed, resamples)])
    return _estimate(float(data.mean()), means, len(data))


def difference_ci(a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean of a - b over the same episodes, each (episodes,). Raises ValueError as `mean_ci`, and if lengths differ."""
    first, second = _checked(a, b)
    return mean_ci(first - second, seed, resamples)


def ratio_ci(
    sparse: npt.ArrayLike,
    dense: npt.ArrayLike,
    higher_is_better: bool = True,
    seed: int = 0,
    resamples: int = 10_000,
) -> Estimate | None:
    """Retention over the same episodes: mean(sparse) / mean(dense), or its inverse where lower is better.

    1 means that pruning cost nothing, less than 1 that it cost something. None where a ratio says nothing, because the
    mean below the line is zero or negative in the data or in a resample (a negative quality of experience, traces
    without stalls): report `difference_ci` there.
    """
    above, below = _checked(sparse, dense)
    if not higher_is_better:
        above, below = below, above
    if below.mean() <= 0:
        return None
    ratios = []
    for index in _draws(len(above), seed, resamples):
        bottom = below[index].mean(1)
        if (bottom <= 0).any():
            return None
        ratios.append(above[index].mean(1) / bottom)
    return _estimate(float(above.mean() / below.mean()), np.concatenate(ratios), len(above))


def crossed_mean_ci(values: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean over training seeds and episodes (seeds, episodes); `n` counts the episodes. Raises ValueError as `mean_ci`."""
    (data,) = _checked(values, crossed=True)
    means = [_crossed_means(data, *drawn) for drawn in _crossed_draws(data.shape, seed, resamples)]
    return _estimate(float(data.mean()), np.concatenate(means), data.shape[1])


def crossed_ratio_ci(
    sparse: npt.ArrayLike,
    dense: npt.ArrayLike,
    higher_is_better: bool = True,
    seed: int = 0,
    resamples: int = 10_000,
) -> Estimate | None:
    """Retention over training seeds and episodes, each (seeds, episodes): as `ratio_ci`, which it equals for one seed."""
    above, below = _checked(sparse, dense, crossed=True)
    if not higher_is_better:
        above, below = below, above
    if below.mean() <= 0:
        return None
    ratios = []
    for drawn in _crossed_draws(above.shape, seed, resamples):
        bottom = _crossed_means(below, *drawn)
        if (bottom <= 0).any():
            return None
        ratios.append(_crossed_means(above, *drawn) / bottom)
    return _estimate(float(above.mean() / below.mean()), np.concatenate(ratios), above.shape[1])


def crossed_difference_ci(a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean of a (seeds, episodes) minus mean of b (other seeds, episodes): the same episodes, each its own training seeds."""
    (first,), (second,) = _checked(a, crossed=True), _checked(b, crossed=True)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"paired samples differ in episodes: {first.shape} and {second.shape}")
    rng, means = np.random.default_rng([seed, 2]), []
    for seeds, episodes in _crossed_draws(first.shape, seed, resamples):
        others = rng.integers(0, len(second), (len(episodes), len(second)))
        means.append(_crossed_means(first, seeds, episodes) - _crossed_means(second, others, episodes))
    return _estimate(float(first.mean() - second.mean()), np.concatenate(means), first.shape[1])


def _crossed_draws(shape: tuple[int, ...], seed: int, resamples: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Numbers of seeds (some of the resamples, seeds) and of episodes (as many, episodes)."""
    rng = np.random.default_rng([seed, 1])
    for episodes in _draws(shape[1], seed, resamples):
        yield rng.integers(0, shape[0], (len(episodes), shape[0])), episodes


def _crossed_means(data: FloatArray, seeds: IntArray, episodes: IntArray) -> FloatArray:
    """Mean over the drawn rows and columns of data (seeds, episodes), one per resample."""
    by_seed = np.stack([row[episodes].mean(1) for row in data], axis=1)
    return np.asarray(np.take_along_axis(by_seed, seeds, axis=1).mean(1))


def _estimate(point: float, resampled: FloatArray, n: int) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"mean": point, "ci95": [float(low), float(high)], "n": n}


def _draws(n: int, seed: int, resamples: int) -> Iterator[IntArray]:
    """Episode numbers (some of the resamples, n), drawn with replacement; all together `resamples` rows."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield rng.integers(0, n, (min(rows, resamples - start), n))


def _checked(*values: npt.ArrayLike, crossed: bool = False) -> list[FloatArray]:
    arrays = [np.asarray(value, np.float64) for value in values]
    wanted = "one value per seed and episode" if crossed else "one value per episode"
    for array in arrays:
        if array.ndim != (2 if crossed else 1) or array.size == 0:
            raise ValueError(f"a bootstrap needs {wanted}, not an array of shape {array.shape}")
        if array.shape != arrays[0].shape:
            raise ValueError(f"paired samples differ in length: {[array.shape for array in arrays]}")
        if not np.isfinite(array).all():
            raise ValueError("a bootstrap needs finite values")
    return arrays
