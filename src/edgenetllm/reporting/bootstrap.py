"""Percentile bootstrap intervals over episodes: what is drawn again is the trace or workload, not the decision.

Sparse, dense and baseline policies play the same episodes, so comparisons draw the same episodes for both sides
(paired): that removes the spread between easy and hard traces, which is far larger than the difference between two
policies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

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


def _estimate(point: float, resampled: FloatArray, n: int) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"mean": point, "ci95": [float(low), float(high)], "n": n}


def _draws(n: int, seed: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Episode numbers (some of the resamples, n), drawn with replacement; all together `resamples` rows."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield rng.integers(0, n, (min(rows, resamples - start), n))


def _checked(*values: npt.ArrayLike) -> list[FloatArray]:
    arrays = [np.asarray(value, np.float64) for value in values]
    for array in arrays:
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"a bootstrap needs one value per episode, not an array of shape {array.shape}")
        if array.shape != arrays[0].shape:
            raise ValueError(f"paired samples differ in length: {[len(a) for a in arrays]}")
        if not np.isfinite(array).all():
            raise ValueError("a bootstrap needs finite values")
    return arrays
