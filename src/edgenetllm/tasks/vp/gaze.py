"""Directions on a sphere: how far two gazes are apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.observation import Array
from edgenetllm.tasks.supervised.simulator.forecast import Forecast


def great_circle(one: Array, other: Array) -> npt.NDArray[np.float64]:
    """Degrees between gazes (..., roll pitch yaw), whose roll does not move where they point to."""
    first, second = (direction(gaze[..., 1], gaze[..., 2]) for gaze in (one, other))
    cross, dot = np.linalg.norm(np.cross(first, second), axis=-1), (first * second).sum(-1)
    return np.asarray(np.degrees(np.arctan2(cross, dot)))


def direction(pitch: Array, yaw: Array) -> npt.NDArray[np.float64]:
    """Unit vectors (..., 3) of degrees."""
    pitch, yaw = np.radians(pitch), np.radians(yaw)
    return np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1)


class Gaze(Forecast):
    """Forecasts of gazes; `sphere` of the record is the great-circle distance of each row in degrees."""

    def details(self, given: Array, right: Array) -> dict[str, Array]:
        return {"sphere": great_circle(given, right)}
