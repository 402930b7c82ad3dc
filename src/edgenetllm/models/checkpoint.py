"""The best checkpoint by validation and the last one, in a folder that may be moved between two sittings."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from edgenetllm.errors import UserError
from edgenetllm.files import flush
from edgenetllm.models.stored import damage, read_progress, write_checkpoint
from edgenetllm.printable import say

BEST, LAST = "best.ckpt", "last.ckpt"
BEFORE = "before-last.ckpt"  # the last one but one


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
        super().__init__(folder, Path(BEST).stem, monitor=monitor, mode=mode)


class LastCheckpoint(_InFolder):
    """`last.ckpt`, written after every validation: what a resumed run goes on from. (Lightning's own `save_last` writes it
    only when the best one changes.) It stands after the best one in the list of callbacks, whose state it stores."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Path(LAST).stem)


class WholeCheckpoints(TorchCheckpointIO):
    """Plugin of a Trainer: a checkpoint is whole on the disk before it replaces the one before, which is kept of `last.ckpt`.

    Lightning's own moves it from the temporary folder, which on another disk is a copy, and flushes nothing: where that disk
    is full or the power fails, half of one is left.
    """

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """The checkpoint to go on from, tensors on the CPU. Raises UserError for a damaged one, before anything is built."""
        return read_progress(path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        write_checkpoint(checkpoint, path, path.with_name(BEFORE) if path.name == LAST else None)


def make_last_whole(folder: Path) -> None:
    """Make `last.ckpt` in a folder of checkpoints the newest whole one: the one before replaces one that is damaged.

    That is said. Does nothing where there is neither. Raises UserError, with what to type, where both are damaged, and where
    `best.ckpt` is.
    """
    last, before, best = folder / LAST, folder / BEFORE, folder / BEST
    if not last.exists() and not before.exists():
        return
    again = f"remove that folder (rm -r {shlex.quote(str(folder))}), and the same command learns again from the start"
    # The last one. Where it has no name yet, the process was killed before it had one: the one before is the newest.
    problem = damage(last) if last.exists() else "is not there"
    if problem is not None:
        if (of_before := damage(before)) is not None:
            raise UserError(
                f"{last} {problem}, and the one before it, {before.name}, {of_before}: {again}"
                if before.exists()
                else f"{last} {problem}, and there is none before it: {again}"
            )
        if last.exists():
            say(
                f"warning: {last} {problem}: the fit goes on from the one before it, {before.name}, and repeats what came "
                "after that",
                file=sys.stderr,
            )
        os.replace(before, last)
        flush(folder)
    # The best one, whose score is known to the last one.
    if best.exists() and (problem := damage(best)) is not None:
        raise UserError(f"{best} {problem}: {again}")
