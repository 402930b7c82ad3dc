"""The experiment loggers of a run, as one: Lightning's Trainer takes the list, our own figures go to each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger


class Loggers(list[Logger]):
    """Any number of loggers, also none. `wandb_runs` are the W&B runs among them, which take tables, plots and artifacts."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        for logger in self:
            logger.log_metrics(dict(metrics))

    @property
    def wandb_runs(self) -> list[Any]:
        return [logger.experiment for logger in self if isinstance(logger, WandbLogger)]
