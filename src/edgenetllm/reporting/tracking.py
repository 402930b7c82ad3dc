"""Experiment loggers: W&B (offline without a key), csv or tensorboard; always closed, as failed if the job failed."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from edgenetllm.config import Config
from edgenetllm.errors import StoppedEarly, UserError
from edgenetllm.run import Run


@contextmanager
def tracked(config: Config, run: Run) -> Iterator[Logger]:
    """The logger of a run, started and closed together with the run's own state in run.json."""
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / ".lock", timeout=0)  # held as long as the process lives
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{run.folder} belongs to a process that is still running") from None
    logger = None
    try:
        run.start()
        logger = _open(config, run)
        yield logger
    except StoppedEarly:
        run.finish("stopped")
        _close(logger, exit_code=0)
        raise
    except BaseException as error:
        run.finish("interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed")
        _close(logger, exit_code=1)
        raise
    finally:
        lock.release()
    run.finish("finished")
    _close(logger, exit_code=0)


def log_results(
    logger: Logger, summary: Mapping[str, float], table: tuple[list[str], list[list[Any]]], folder: Path
) -> None:
    """Summary metrics for every logger; for W&B also the table, the plots, and the bundle as an artifact."""
    logger.log_metrics(dict(summary))
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    wandb_run = logger.experiment
    wandb_run.summary.update(dict(summary))
    columns, rows = table
    media: dict[str, Any] = {"test/table": wandb.Table(columns=columns, data=rows)}
    for plot in sorted((folder / "plots").glob("*.png")):
        media[f"plots/{plot.stem}"] = wandb.Image(str(plot))
    wandb_run.log(media)
    if (folder / "bundle").is_dir():
        artifact = wandb.Artifact(f"bundle-{wandb_run.id}", type="bundle", metadata=dict(summary))
        artifact.add_dir(str(folder / "bundle"))
        wandb_run.log_artifact(artifact)


def _open(config: Config, run: Run) -> Logger:
    settings = config.logger
    task, model, data = (run.settings[group]["name"] for group in ("task", "model", "data"))
    if settings.name == "csv":
        return CSVLogger(run.folder, name="csv")  # a version per sitting: Lightning deletes one that is there
    if settings.name == "tensorboard":
        return TensorBoardLogger(run.folder, name="tensorboard", version="")
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=settings.project,
        name=run.folder.name,
        id=run.id,
        group=settings.group or f"{task}-{model}-{data}",
        job_type=run.stage,
        tags=settings.tags,
        save_dir=run.folder,
        offline=_offline(settings.mode),
        resume="allow",
        config=_flat(run.settings),
    )
    logger.experiment  # noqa: B018  start it now: a wrong key must not wait until training has begun
    return logger


def _offline(mode: str) -> bool:
    if mode == "auto":
        return os.environ.get("WANDB_MODE", "") in ("offline", "disabled", "dryrun") or not _has_key()
    return mode == "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, as they are typed on the command line."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _close(logger: Logger | None, exit_code: int) -> None:
    if logger is not None:
        logger.finalize("success" if exit_code == 0 else "failed")
    if isinstance(logger, WandbLogger):
        import wandb

        wandb.finish(exit_code=exit_code)
