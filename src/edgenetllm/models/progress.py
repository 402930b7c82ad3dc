"""The progress of a fit: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from edgenetllm.printable import say
from edgenetllm.progress import EVERY_S


class ProgressLines(ProgressBar):
    """Epoch, step and metrics on standard error, every half minute and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at, self._enabled = time.monotonic(), True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if time.monotonic() - self._said_at >= EVERY_S:
            self._say(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._say(trainer, pl_module)

    def _say(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._said_at = time.monotonic()
        if not self._enabled:
            return
        metrics = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        shown = [
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in metrics.items()
        ]
        epochs = trainer.max_epochs or 0
        epoch = min(trainer.current_epoch + 1, epochs)
        words = [
            f"fit: epoch {epoch} of {epochs}",
            f"step {trainer.global_step} of {trainer.estimated_stepping_batches:.0f}",
        ]
        say(", ".join([*words, *shown]), file=sys.stderr)


class FitProgress(ProgressBar):
    """The progress of a fit: a TQDMProgressBar in a terminal, else ProgressLines."""

    def __new__(cls) -> ProgressBar:  # type: ignore[misc]
        return TQDMProgressBar(refresh_rate=5) if sys.stdout.isatty() else ProgressLines()
