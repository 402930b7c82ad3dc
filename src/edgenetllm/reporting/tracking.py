"""Experiment loggers: W&B (offline without a key), csv or tensorboard; always closed, as failed if the job failed.

What W&B is told of pools, adaptations and bundles is in `wandb_artifacts.py`, its saved workspace in `workspace.py`.
"""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from edgenetllm.config import Config
from edgenetllm.errors import StoppedEarly, UserError
from edgenetllm.models.label import model_label
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
    try:
        run.start()  # outside of what follows: where it is refused, the folder is another run's and stays as it is
        with _closed_at_the_end(config, run) as logger:
            yield logger
    finally:
        lock.release()


@contextmanager
def _closed_at_the_end(config: Config, run: Run) -> Iterator[Logger]:
    logger = None
    try:
        logger = _open(config, run)
        yield logger
    except StoppedEarly:
        run.finish("stopped")
        _close(logger, exit_code=0)
        raise
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        run.finish("interrupted" if interrupted else "failed")
        with _not_hiding_the_error():
            if isinstance(logger, WandbLogger) and not interrupted:
                logger.experiment.alert(f"{run.stage} failed", f"{run.folder}: {first_line(error)}", level="ERROR")
        with _not_hiding_the_error():
            _close(logger, exit_code=1)
        raise
    run.finish("finished")
    _close(logger, exit_code=0)


def log_results(
    logger: Logger, summary: Mapping[str, float], table: tuple[list[str], list[list[Any]]], folder: Path, part: str = ""
) -> None:
    """Summary metrics for every logger; for W&B also the table and the plots in `folder`, of `part` (`abr/`) of a run."""
    logger.log_metrics(dict(summary))
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    wandb_run = logger.experiment
    wandb_run.summary.update(dict(summary))
    columns, rows = table
    media: dict[str, Any] = {f"test/{part}table": wandb.Table(columns=columns, data=rows)}
    for plot in sorted((folder / "plots").glob("*.png")):
        media[f"plots/{part}{plot.stem}"] = wandb.Image(str(plot))
    wandb_run.log(media)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _not_hiding_the_error() -> Iterator[None]:
    """While an error is on its way up, one of the logger is only printed."""
    try:
        yield
    except Exception as error:
        print(f"the experiment logger could not be told of the failure: {first_line(error)}", file=sys.stderr)


def _open(config: Config, run: Run) -> Logger:
    settings = config.logger
    sweep = run.state().get("sweep")  # also when it is resumed alone
    task, data = (run.settings[group]["name"] for group in ("task", "data"))
    model = model_label(run.settings["model"])
    if settings.name == "csv":
        return CSVLogger(run.folder, name="csv")  # a version per sitting: Lightning deletes one that is there
    if settings.name == "tensorboard":
        return TensorBoardLogger(run.folder, name="tensorboard", version="")
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=settings.project,
        entity=settings.entity,
        name=run.folder.name if sweep is None else f"{sweep}/{run.folder.name}",
        id=run.id,
        group=settings.group or sweep or f"{task}-{model}-{data}",
        job_type=run.stage,
        tags=settings.tags,
        save_dir=run.folder,
        mode=wandb_mode(settings.mode),
        resume="allow",
        config=wandb_config(run),
    )
    logger._wandb_init.pop("anonymous")  # Lightning still passes it, and W&B warns of it on every start
    import wandb

    try:
        logger.experiment  # noqa: B018  start it now: a wrong key must not wait until training has begun
    except wandb.Error as error:
        raise UserError(f"logger=wandb does not start ({error}): mend that, or work with logger.mode=offline") from None
    return logger


def wandb_config(run: Run) -> dict[str, Any]:
    """Every setting under its dotted name, and every group's option, both as they are typed: `budget.epochs`, `pruning`."""
    return {**_flat(run.settings), **run.choices}


def wandb_mode(mode: str) -> str:
    """`auto` is what WANDB_MODE says, else online where there is a key."""
    if mode != "auto":
        return mode
    said = os.environ.get("WANDB_MODE", "")
    return {"dryrun": "offline", "run": "online"}.get(said, said) or ("online" if _has_key() else "offline")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
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
