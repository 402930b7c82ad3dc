"""A package of somebody else's with a callback, a logger and a Trainer."""

from __future__ import annotations

import os
from pathlib import Path

PIECES = '''
import json
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger


class Shrink(Callback):
    """Changes weights, and says how often."""

    def __init__(self, factor: float, written: str) -> None:
        if factor > 1:
            raise ValueError(f"factor={factor} is above 1")
        self.factor, self.written = factor, written

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                if parameter.requires_grad:
                    parameter.mul_(self.factor)

    def on_train_end(self, trainer, pl_module) -> None:
        warnings.warn("weights were shrunk")
        with open(f"{self.written}-{trainer.global_rank}.json", "w") as file:
            json.dump({"steps": trainer.global_step, "loggers": [type(one).__name__ for one in trainer.loggers]}, file)


class Lines(Logger):
    """Writes a line for everything."""

    def __init__(self, server: str, save_dir: Path | None = None, name: str = "lines") -> None:
        super().__init__()
        if server == "down":
            raise ValueError("the server is down")
        self.file, self._name = Path(save_dir) / f"{name}.jsonl", name
        self.log(server=server)

    def log(self, **what) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(what, default=str) + chr(10))

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        self.log(params=dict(params))

    def log_metrics(self, metrics, step=None) -> None:
        self.log(metrics=dict(metrics))

    def finalize(self, status: str) -> None:
        self.log(status=status)


class MyTrainer(L.Trainer):
    def __init__(self, *args, greeting: str = "hello", **kwargs) -> None:
        super().__init__(*args, **kwargs)
        print(greeting)


class Nothing:
    pass
'''


def write_package(folder: Path, name: str = "mylab") -> str:
    """Write it into `folder`; returns the PYTHONPATH with which commands find it."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "pieces.py").write_text(PIECES)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH", "")])])
