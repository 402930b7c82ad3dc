"""Ends the adaptation of a trial that validation shows to be worse than the others of its search."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from edgenetllm.errors import StoppedEarly
from edgenetllm.sweeps.search import open_study


class StopBadTrial(Callback):
    """Reports `monitor` to the trial after every epoch. Raises StoppedEarly when the study's pruner says so."""

    def __init__(self, monitor: str, study: str, journal: Path, direction: str, warmup_trials: int, trial: int) -> None:
        import optuna

        self.monitor = monitor
        found = open_study(study, journal, direction, warmup_trials=warmup_trials)
        self.trial = optuna.trial.Trial(found, found.trials[trial]._trial_id)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        self.trial.report(value, trainer.current_epoch)
        if self.trial.should_prune():
            raise StoppedEarly(
                f"{self.monitor} is {value:.4f} after epoch {trainer.current_epoch + 1}: worse than the median"
            )
