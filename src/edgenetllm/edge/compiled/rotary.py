"""Frequencies of rotary positions, as transformers computes them: the default, and Llama 3's rescaling of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.settings import Settings, is_positive

Floats: TypeAlias = npt.NDArray[np.float32]
CONTEXT = "original_max_position_embeddings"
KEYS = {
    "default": {"rope_type", "type", "rope_theta"},
    "llama3": {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", CONTEXT},
}  # fmt: skip


def inverse_frequencies(settings: Settings, head: int) -> Floats:
    """The angle by which a pair of a head turns from one position to the next, (head / 2,).

    Raises UserError for other kinds of rotary positions, and for keys that are not understood.
    """
    # Older configurations have `rope_theta` and `rope_scaling` instead of `rope_parameters`.
    theta = settings.number("rope_theta", 10000.0)
    scaling = settings.take("rope_scaling", None)
    name = "rope_parameters" if scaling is None else "rope_scaling"
    stated = scaling or settings.take("rope_parameters", None) or {}
    settings.take("rope_parameters", None)
    if not isinstance(stated, Mapping):
        raise settings.error(name, "it must be a mapping")
    options = dict(stated)
    kind = options.get("rope_type", options.get("type", "default"))
    if not isinstance(kind, str) or kind not in KEYS:
        raise settings.error(name, "it runs the rope types default and llama3")
    if options.pop("partial_rotary_factor", None) not in (None, 1.0) or not options.keys() <= KEYS[kind]:
        raise settings.error(name, "it does not know all of this")
    # In float32, as transformers.
    base = options.get("rope_theta", theta)
    if not is_positive(base) or base < 1:
        raise settings.error(name if "rope_theta" in options else "rope_theta", "rope_theta must be at least 1")
    power = np.float64(base) ** (np.arange(0, head, 2) / head)
    frequencies = np.float32(1) / power.astype(np.float32)
    if kind == "default":
        return frequencies
    options.setdefault(CONTEXT, settings.take("max_position_embeddings", 2048))
    values = [options.get(key) for key in ("factor", "low_freq_factor", "high_freq_factor", CONTEXT)]
    numbers = [float(value) for value in values if is_positive(value)]
    if len(numbers) < 4 or numbers[1] >= numbers[2]:
        raise settings.error(name, "the numbers of llama3 must be positive, high_freq_factor above low_freq_factor")
    return _rescale(frequencies, *numbers)


def _rescale(frequencies: Floats, factor: float, low: float, high: float, context: float) -> Floats:
    """Llama 3.1's rescaling: slow frequencies divided by `factor`, fast ones kept, those between interpolated.

    A frequency is slow where it turns less than `low` times in the `context` of pretraining, fast above `high` times.
    """
    wavelength = np.float32(2 * np.pi) / frequencies
    slow, fast = wavelength > context / low, wavelength < context / high
    kept = (np.float32(context) / wavelength - np.float32(low)) / np.float32(high - low)
    between = (1 - kept) * frequencies / np.float32(factor) + kept * frequencies
    return np.where(slow, frequencies / np.float32(factor), np.where(fast, frequencies, between)).astype(np.float32)
