"""Stopping when validation has not improved for a while, also across sittings."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class Patience(EarlyStopping):
    """Early stopping that still holds when a stopped run is resumed: Lightning restores the count, but not the stop."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True
