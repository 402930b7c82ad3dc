"""Forecasts by a rule: nothing changes, the mean speed goes on, a straight line goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.observation import Array, Observation
from edgenetllm.tasks.supervised.angles import unwrapped, wrapped


class _Rule(Heuristic):
    """`rows` rows of the columns at `places` of the history, whose `periods` are 0 for what is no angle."""

    def __init__(self, rows: int, places: Sequence[int], periods: Sequence[float]) -> None:
        self.rows, self.places, self.periods = rows, list(places), np.asarray(periods, np.float64)

    def act(self, observation: Observation) -> Array:
        history = observation["long_history" if "long_history" in observation else "history"]
        series = unwrapped(np.asarray(history, np.float64)[..., self.places], self.periods)
        return wrapped(self.go_on(series, np.arange(1, self.rows + 1)[:, None]), self.periods)

    def go_on(self, series: npt.NDArray[np.float64], ahead: Array) -> npt.NDArray[np.float64]:
        """The next rows of series (episodes, history, columns), without the jumps of angles; `ahead` is (rows, 1)."""
        raise NotImplementedError


class Still(_Rule):
    """The last row, again and again (persistence)."""

    name = "still"

    def go_on(self, series: npt.NDArray[np.float64], ahead: Array) -> npt.NDArray[np.float64]:
        return series[:, -1:] + 0.0 * ahead


class Velocity(_Rule):
    """The mean change per row over the history goes on from the last row."""

    name = "velocity"

    def go_on(self, series: npt.NDArray[np.float64], ahead: Array) -> npt.NDArray[np.float64]:
        speed = (series[:, -1:] - series[:, :1]) / max(1, series.shape[1] - 1)
        return series[:, -1:] + speed * ahead


class LinearRegression(_Rule):
    """The straight line of least squares through the history, of each column by itself, goes on."""

    name = "linear_regression"

    def go_on(self, series: npt.NDArray[np.float64], ahead: Array) -> npt.NDArray[np.float64]:
        when = np.arange(series.shape[1]) - (series.shape[1] - 1) / 2
        mean = series.mean(1, keepdims=True)
        slope = np.einsum("t,etc->ec", when, series - mean)[:, None] / max(1.0, float((when**2).sum()))
        return mean + slope * (when[-1] + ahead)
