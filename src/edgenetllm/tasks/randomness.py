"""Random numbers as a pure function of (seed, counter): no state to carry, clone or share between episodes.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a hash; vectorised, so that a thousand episodes cost one numpy call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]


def mix(x: UInt64Array) -> UInt64Array:
    """SplitMix64's finaliser, element by element."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniform(seeds: npt.NDArray[np.int64], counter: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per seed, the same for the same (seed, counter)."""
    keys = mix(np.asarray(seeds, np.int64).view(np.uint64))
    bits = mix(keys ^ mix(np.atleast_1d(np.asarray(counter, np.int64)).view(np.uint64)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
