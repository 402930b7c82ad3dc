"""Viewport prediction as a task: the orientation of a viewer's head, some seconds ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.tasks.supervised.task import ForecastTask
from edgenetllm.tasks.task import Array, Metric
from edgenetllm.tasks.vp.data.recordings import AXES
from edgenetllm.tasks.vp.gaze import Gaze

METRICS = (
    Metric("error_deg", "mean absolute error", "°", False),  # over the three axes, as NetLLM has it
    *(Metric(f"{axis}_deg", axis, "°", False) for axis in AXES),
    Metric("sphere_deg", "great circle", "°", False),
)


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class VpTask(ForecastTask):
    """Options of `task=vp`; `data` is the object of the data group."""

    metrics = METRICS
    environment_class = Gaze
    timeline = "edgenetllm.tasks.vp.timeline"

    def periods(self, columns: tuple[str, ...]) -> tuple[float, ...]:
        return (360.0,) * len(columns)

    @property
    def unit(self) -> tuple[float, ...]:
        """A degree of any axis counts the same."""
        return (1.0,) * len(AXES)

    def summarise(self, record: Mapping[str, Any], reward: Array, valid: Array) -> dict[str, npt.NDArray[np.float64]]:
        by_axis = self.errors(record)
        sphere = record["sphere"].sum((1, 2)) / record["rows"].sum(1)
        named = {f"{axis}_deg": by_axis[:, number] for number, axis in enumerate(AXES)}
        return {"error_deg": by_axis.mean(1), **named, "sphere_deg": sphere}
