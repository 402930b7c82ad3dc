"""A run as the trial of a search: after each epoch it tells the study how it does, and stops when others do better.

The search leaves `trial.json` in the folder of the run before it starts; a run without that file is no trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from edgenetllm.errors import StoppedEarly, UserError
from edgenetllm.installation import install_command
from edgenetllm.plain_files import read_document
from edgenetllm.trust import check_pruner

TRIAL_FILE = "trial.json"  # storage, study, number, pruner


def trial_callbacks(folder: Path, monitor: str, trusted: Sequence[str] = (), alone: bool = False) -> list[Callback]:
    """Callbacks that connect the Trainer with the search that the run in `folder` belongs to, if it still waits for it.

    `alone`: the run is resumed by itself, and its folder may be somebody else's. Raises UserError where the folder names a
    pruner that is none of Optuna's and lies in no trusted package, and of a run that is `alone` also for a storage outside of
    the sweep.
    """
    path = folder / TRIAL_FILE
    if not path.is_file():
        return []
    facts = read_document(path, _Trial)
    inside = "://" not in facts["storage"] and Path(facts["storage"]).resolve().is_relative_to(folder.parent.resolve())
    if alone and not inside and "optuna" not in trusted:
        raise UserError(
            f"{path} names a storage outside of its sweep, {facts['storage']:.200}; if this search is your own, type "
            "trust=[optuna]"
        )
    if facts["pruner"] is not None:
        check_pruner(facts["pruner"], trusted, f"{path}: pruner")
    callback = StopBadTrial(monitor, facts)
    return [] if callback.closed else [callback]


class _Trial(BaseModel):
    """The entries of `trial.json`."""

    model_config = ConfigDict(strict=True)

    storage: str
    study: str
    number: Annotated[int, Field(ge=0)]
    pruner: dict[str, JsonValue] | None


class StopBadTrial(Callback):
    """Reports `monitor` after every validation, and raises StoppedEarly when the study's pruner says so."""

    def __init__(self, monitor: str, facts: dict[str, Any]) -> None:
        import optuna

        self.monitor = monitor
        pruner = optuna.pruners.NopPruner() if facts["pruner"] is None else instantiate(facts["pruner"])
        with reading(facts["storage"]):
            study = optuna.load_study(study_name=facts["study"], storage=open_storage(facts["storage"]), pruner=pruner)
            frozen = study.get_trials(deepcopy=False)[facts["number"]]
        self.closed = frozen.state.is_finished()  # a job that failed, resumed by itself
        self.trial = optuna.trial.Trial(study, frozen._trial_id)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value, epoch = float(trainer.callback_metrics[self.monitor]), trainer.current_epoch
        if not trainer.sanity_checking and self._report(value, epoch):
            raise StoppedEarly(f"after epoch {epoch + 1}, {self.monitor}={value:.4g}: other trials do better", value)

    def _report(self, value: float, epoch: int) -> bool:
        """Report the value; True where the study's pruner would stop this trial."""
        if (
            epoch not in self.trial.storage.get_trial(self.trial._trial_id).intermediate_values
        ):  # reported before a break
            self.trial.report(value, epoch)
        return self.trial.should_prune()


@contextmanager
def reading(storage: str) -> Iterator[None]:
    """Raises UserError, naming the file, where a study's file is damaged while it is read."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        if "://" in storage:
            raise
        reason = f"{type(error).__name__}: {error!s:.100}"
        raise UserError(f"{storage} is not a readable study ({reason}): delete it to begin the search again") from None


def open_storage(url: str) -> Any:
    """A database (`sqlite:///...`, `postgresql://...`), or a file to which all processes append, also over NFS."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError:
        raise UserError(f"a search needs optuna 4 or newer: {install_command('search')}") from None
    if "://" in url:
        return optuna.storages.get_storage(url)
    return optuna.storages.JournalStorage(JournalFileBackend(url, lock_obj=JournalFileOpenLock(url)))
