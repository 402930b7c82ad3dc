"""Forecasting of any recorded series as a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.tasks.supervised.task import ForecastTask
from edgenetllm.tasks.task import Array, Metric


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class SeriesTask(ForecastTask):
    """Options of `task=forecast`; `data` is the object of the data group."""

    timeline = "edgenetllm.tasks.forecast.timeline"

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]
        """The mean absolute scaled error (1: as large as what a step changes), and the absolute error of each column."""
        columns = [
            Metric(f"mae_{number}", f"MAE of {name}", "", False) for number, name in enumerate(self.data.answers, 1)
        ]
        return (Metric("mase", "mean absolute scaled error", "", False), *columns)

    def summarise(self, record: Mapping[str, Any], reward: Array, valid: Array) -> dict[str, npt.NDArray[np.float64]]:
        errors = self.errors(record)
        by_column = {f"mae_{number}": errors[:, number - 1] for number in range(1, errors.shape[1] + 1)}
        return {"mase": (errors / self._unit).mean(1), **by_column}
