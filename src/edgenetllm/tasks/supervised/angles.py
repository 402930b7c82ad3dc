"""Differences of numbers, some of which are angles: 359 degrees and 1 degree are 2 degrees apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.observation import Array


def difference(one: Array, other: Array, periods: Array) -> Array:
    """one - other, (..., columns); in a column with a period (columns,) above 0, the nearest way round."""
    plain = np.asarray(one - other)
    return plain - periods * np.round(plain / np.where(periods > 0, periods, 1.0))


def wrapped(values: Array, periods: Array) -> Array:
    """Values (..., columns) within half a period of zero, [-p / 2, p / 2), where a column has one."""
    safe = np.where(periods > 0, periods, 1.0)
    return np.where(periods > 0, (values + safe / 2) % safe - safe / 2, values)


def unwrapped(series: npt.NDArray[np.float64], periods: Array) -> npt.NDArray[np.float64]:
    """Series (episodes, rows, columns) without the jumps of their angles from one end of the period to the other."""
    steps = difference(series[:, 1:], series[:, :-1], periods)
    return np.concatenate([series[:, :1], series[:, :1] + np.cumsum(steps, axis=1)], axis=1)
