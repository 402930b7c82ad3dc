"""Signals during a fit."""

from __future__ import annotations

import signal
import threading

import lightning as L
from lightning.pytorch.callbacks import Callback


class OwnSignals(Callback):
    """Keeps the handler of SIGTERM that was there when this was made.

    Lightning puts its own in front, which broadcasts to the other ranks from inside the handler: a rank that is somewhere
    else then never answers, and none of them ends.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)
