"""The best checkpoint by validation and the last one, in a folder that may be moved between two sittings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from edgenetllm.models.stored import read_progress


class _InFolder(ModelCheckpoint):
    """One file in `folder`, replaced by the next. Lightning stores absolute paths and forgets the best score when they
    changed; here the stored paths are read as names inside the folder."""

    def __init__(self, folder: Path, filename: str, **options: Any) -> None:
        super().__init__(
            folder, filename=filename, enable_version_counter=False, auto_insert_metric_name=False, **options
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = self._here(state_dict[name])
        state["best_k_models"] = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state)

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else ""


class BestCheckpoint(_InFolder):
    """`best.ckpt`, written when validation improves."""

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode)


class LastCheckpoint(_InFolder):
    """`last.ckpt`, written after every validation: what a resumed run goes on from. (Lightning's own `save_last` writes it
    only when the best one changes.) It stands after the best one in the list of callbacks, whose state it stores."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last")


class WholeCheckpoints(TorchCheckpointIO):
    """Plugin of a Trainer: a checkpoint replaces the one before only when it is whole.

    Lightning's own moves it from the temporary folder, which on another disk is a copy: where that disk is full, half of one.
    """

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """The checkpoint to go on from, tensors on the CPU. Raises UserError for a damaged one, before anything is built."""
        return read_progress(path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        temporary = Path(path).with_name(f".{Path(path).name}.tmp")
        try:
            super().save_checkpoint(checkpoint, temporary, storage_options)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
