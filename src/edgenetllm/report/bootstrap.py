"""Percentile bootstrap intervals over episodes: what is drawn again is the trace or workload, not the decision.

Sparse, dense and baseline policies play the same episodes, so comparisons draw the same episodes for both sides
(paired): that removes the spread between easy and hard traces, which is far larger than the difference between two
policies.

Values are (episodes,), or (seeds, episodes) of a model that was trained with several seeds. Then training seeds and episodes
are drawn again, independently of each other (crossed), as every seed's model plays the same episodes. Few seeds say little
about seeds: with three of them such an interval is narrower than it should be, and with one it is about the episodes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from edgenetllm.report.document import Strict

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK = 1 << 20  # indices drawn at once: 8 MiB, whatever the number of episodes


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"the interval {list(interval)} is upside down")
    return interval


Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
Interval = Annotated[tuple[Figure, Figure], AfterValidator(_ordered)]


class Estimate(Strict):
    """Mean over `n` episodes with its 95 % bootstrap interval."""

    mean: Figure
    ci95: Interval
    n: Annotated[int, Field(ge=1)]


class Retention(Strict):
    """The fraction of its dense parent's performance that the sparse model keeps: 1 means that pruning cost nothing."""

    mean: Figure
    ci95: Interval


def mean_ci(values: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean over episodes, and training seeds where there are several; `n` counts the episodes.

    One episode gives an interval of width 0, which `n` gives away. Raises ValueError for no episode at all, NaN or infinity.
    """
    (data,) = _checked(values)
    means = [_means(data, *drawn) for drawn in _draws(data.shape, seed, resamples)]
    return Estimate(mean=float(data.mean()), ci95=_interval(means), n=data.shape[1])


def difference_ci(a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean of a - b over the same seeds and episodes. Raises ValueError as `mean_ci`, and if shapes differ."""
    first, second = _checked(a, b)
    return mean_ci(first - second, seed, resamples)


def ratio_ci(
    sparse: npt.ArrayLike,
    dense: npt.ArrayLike,
    higher_is_better: bool = True,
    seed: int = 0,
    resamples: int = 10_000,
) -> Retention | None:
    """Retention over the same seeds and episodes: mean(sparse) / mean(dense), or its inverse where lower is better.

    1 means that pruning cost nothing, less than 1 that it cost something. None where a ratio says nothing, because the
    mean below the line is zero or negative in the data or in a resample (a negative quality of experience, traces
    without stalls): report `difference_ci` there. Raises ValueError as `difference_ci`.
    """
    above, below = _checked(sparse, dense)
    if not higher_is_better:
        above, below = below, above
    if below.mean() <= 0:
        return None
    ratios = []
    for drawn in _draws(above.shape, seed, resamples):
        bottom = _means(below, *drawn)
        if (bottom <= 0).any():
            return None
        ratios.append(_means(above, *drawn) / bottom)
    return Retention(mean=float(above.mean() / below.mean()), ci95=_interval(ratios))


def unpaired_seeds_ci(a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean of a (seeds, episodes) minus mean of b (other seeds, episodes): the same episodes, each its own training seeds."""
    (first,), (second,) = _checked(a), _checked(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"paired samples differ in episodes: {first.shape} and {second.shape}")
    rng, means = np.random.default_rng([seed, 2]), []
    for seeds, episodes in _draws(first.shape, seed, resamples):
        others = rng.integers(0, len(second), (len(episodes), len(second)))
        means.append(_means(first, seeds, episodes) - _means(second, others, episodes))
    return Estimate(mean=float(first.mean() - second.mean()), ci95=_interval(means), n=first.shape[1])


def _draws(shape: tuple[int, ...], seed: int, resamples: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Numbers of seeds (some of the resamples, seeds) and of episodes (as many, episodes), with replacement."""
    of_seeds, of_episodes = np.random.default_rng([seed, 1]), np.random.default_rng(seed)
    seeds, episodes = shape
    rows = max(1, _CHUNK // episodes)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = of_episodes.integers(0, episodes, (count, episodes))
        yield of_seeds.integers(0, seeds, (count, seeds)), drawn


def _means(data: FloatArray, seeds: IntArray, episodes: IntArray) -> FloatArray:
    """Mean over the drawn rows and columns of data (seeds, episodes), one per resample."""
    by_seed = np.stack([row[episodes].mean(1) for row in data], axis=1)
    return np.asarray(np.take_along_axis(by_seed, seeds, axis=1).mean(1))


def _interval(resampled: list[FloatArray]) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(resampled), [0.025, 0.975])
    return float(low), float(high)


def _checked(*values: npt.ArrayLike) -> list[FloatArray]:
    """The arrays, each as (seeds, episodes), of one seed where the array names none."""
    arrays = [np.asarray(value, np.float64) for value in values]
    for array in arrays:
        if array.ndim not in (1, 2) or array.size == 0:
            raise ValueError(f"a bootstrap needs a value per episode, or per seed and episode, not {array.shape}")
        if array.shape != arrays[0].shape:
            raise ValueError(f"paired samples differ in length: {[array.shape for array in arrays]}")
        if not np.isfinite(array).all():
            raise ValueError("a bootstrap needs finite values")
    return [np.atleast_2d(array) for array in arrays]
