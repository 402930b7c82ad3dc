"""The number of zeros of each layer: uniform, outlier-weighted (OWL), by sensitivity, or one ranking. The total is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.pruning import wanda
from edgenetllm.pruning.masks import zeros_wanted

Allocation = Literal["uniform", "owl", "sensitivity", "global"]


def exact_counts(
    fractions: Sequence[float], sizes: Sequence[int], total: int, minimum: Sequence[int] | None = None
) -> list[int]:
    """Zeros per layer: `fractions` of the `sizes`, all raised or lowered alike until they sum to `total`, none out of bounds.

    No layer gets fewer than its `minimum` (zeros that are there already) or more than its size; fractions are settled by
    largest remainder. Raises UserError when the minimum alone is more than `total`.
    """
    size = np.asarray(sizes, np.float64)
    least = np.zeros(len(size)) if minimum is None else np.asarray(minimum, np.float64)
    if least.sum() > total:
        raise UserError(
            f"sparsity: {int(least.sum())} weights are zero already, which is more than {total}; pruning never goes back"
        )
    ideal = _levelled(np.asarray(fractions, np.float64), size, least, total)
    counts = np.floor(ideal + 1e-9)
    rest = int(total - counts.sum())
    room = counts < size
    order = np.argsort(-np.where(room, ideal - counts, -1.0), kind="stable")
    counts[order[:rest]] += 1
    return [int(count) for count in counts]


def _levelled(
    fractions: npt.NDArray[np.float64], size: npt.NDArray[np.float64], least: npt.NDArray[np.float64], total: int
) -> npt.NDArray[np.float64]:
    """(fraction + offset) · size within [least, size], with the one offset that makes the sum `total` (bisection)."""
    low, high = -1.0 - float(fractions.max()), 2.0 - float(fractions.min())
    for _ in range(100):
        middle = (low + high) / 2
        if np.clip((fractions + middle) * size, least, size).sum() < total:
            low = middle
        else:
            high = middle
    return np.clip((fractions + high) * size, least, size)


def spread(importance: Sequence[float], sparsity: float, width: float) -> list[float]:
    """Fraction of zeros per block: the important ones keep more; they span 2 · `width` around `sparsity` (OWL, section 3.3).

    Raises UserError for importance that is not finite.
    """
    value = np.asarray(importance, np.float64)
    if not np.isfinite(value).all():
        raise UserError("pruning.allocation: the importance of a block is not finite; see pruning.calibration")
    reach = value.max() - value.min()
    scaled = (value - value.min()) / reach * 2 * width if reach > 0 else np.zeros(len(value))
    return [float(fraction) for fraction in np.clip(sparsity - (scaled - scaled.mean()), 0.0, 1.0)]


def outlier_ratio(weight: Tensor, sum_of_squares: Tensor, multiple: float = 5.0) -> float:
    """Fraction of the weights whose Wanda score exceeds `multiple` times the layer's mean (OWL: Yin et al., ICML 2024)."""
    score = wanda.score(weight, sum_of_squares)
    return float((score > multiple * score.mean()).float().mean())


def counts_of(
    fractions: Mapping[str, float], sizes: Mapping[str, int], sparsity: float, zeros: Mapping[str, int]
) -> dict[str, int]:
    """Zeros per layer, together round(sparsity · all weights)."""
    names = list(sizes)
    total = zeros_wanted(sparsity, sum(sizes.values()))
    counts = exact_counts([fractions[n] for n in names], [sizes[n] for n in names], total, [zeros[n] for n in names])
    return dict(zip(names, counts, strict=True))
