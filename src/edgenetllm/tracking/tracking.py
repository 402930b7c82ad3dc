"""Experiment loggers: W&B (offline without a key), csv, tensorboard and any other, several at once; always closed, as failed
if the job failed.

The artifacts of pools, adaptations and bundles are in `wandb_artifacts.py`, its saved workspace in `workspace.py`.
"""

from __future__ import annotations

import netrc
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from lightning.pytorch.loggers import Logger, WandbLogger

from edgenetllm.config import Config
from edgenetllm.disk import explain_disk
from edgenetllm.errors import StoppedEarly, UserError
from edgenetllm.files import remove_abandoned
from edgenetllm.interruption import is_interruption
from edgenetllm.nodes import arguments_of, build, locate
from edgenetllm.printable import say
from edgenetllm.report.results import Results
from edgenetllm.report.run_labels import digest, is_fact
from edgenetllm.run import Run
from edgenetllm.tracking.loggers import Loggers
from edgenetllm.tracking.reachable import is_reachable
from edgenetllm.tracking.run_log import logged
from edgenetllm.tracking.wandb_names import folder_of, run_group, run_name, run_tags

START_S = 20.0  # for W&B's server to take a run
NO_ANSWER = ("Timed out", "deadline exceeded", "dial tcp")  # in the error of a W&B that waited in vain


@contextmanager
def tracked(config: Config, run: Run) -> Iterator[Loggers]:
    """The loggers of a run, started and closed together with the run's own state in run.json and with its run.log.

    Temporary files that a killed process left in the folder are removed. A new run that cannot begin leaves no folder.
    """
    is_new = run.is_new
    run.claim()
    lock = FileLock(run.folder / ".lock", timeout=0)  # held as long as the process lives
    try:
        lock.acquire()
        remove_abandoned(run.folder, below=True)
        run.start()  # outside of what follows: where it is refused, the folder is another run's and stays as it is
    except Timeout:
        raise UserError(f"{run.folder} belongs to a process that is still running") from None
    except BaseException as error:
        if is_new and isinstance(error, OSError):
            shutil.rmtree(run.folder, ignore_errors=True)
        lock.release()
        raise
    try:
        with logged(run.folder, run.stage, run.words), _closed_at_the_end(config, run) as loggers:
            yield loggers
    finally:
        lock.release()


@contextmanager
def _closed_at_the_end(config: Config, run: Run) -> Iterator[Loggers]:
    loggers = Loggers()
    try:
        _open(config, run, loggers)
        yield loggers
        _close(loggers, exit_code=0)  # before the run is finished, as a logger may have something left to write
    except StoppedEarly:
        run.finish("stopped")
        _close(loggers, exit_code=0)
        raise
    except BaseException as error:
        interrupted = is_interruption(error)
        with _not_hiding(error):
            run.finish("interrupted" if interrupted else "failed")
        with _not_hiding(error):
            for wandb_run in [] if interrupted else loggers.wandb_runs:
                wandb_run.alert(f"{run.stage} failed", f"{run.folder}: {first_line(error)}", level="ERROR")
        for logger in loggers:
            with _not_hiding(error):
                _close([logger], exit_code=1)
        raise
    run.finish("finished")


def log_results(
    loggers: Loggers,
    summary: Mapping[str, float],
    table: tuple[list[str], list[list[Any]]],
    folder: Path,
    prefix: str = "",
) -> None:
    """Log summary metrics to every logger, to W&B also table and plots in `folder`; `prefix` (`abr/`): of several tasks."""
    loggers.log_metrics(summary)
    for wandb_run in loggers.wandb_runs:
        import wandb

        wandb_run.summary.update(dict(summary))
        columns, rows = table
        media: dict[str, Any] = {f"test/{prefix}table": wandb.Table(columns=columns, data=rows)}
        for plot in sorted((folder / "plots").glob("*.png")):
            media[f"plots/{prefix}{plot.stem}"] = wandb.Image(str(plot))
        wandb_run.log(media)


def log_identity(loggers: Loggers, results: Results, prefix: str = "") -> None:
    """Add to W&B's configuration which group of the comparison page the run is in: `identity`, a hash, and its facts as
    `identity.code`.

    `prefix` (`abr/`): of a run of several tasks. Runs with equal hashes differ in nothing but their training seed.
    """
    if results.identity is None:
        return
    facts = {f"{prefix}identity.{key}": value for key, value in results.identity.items() if is_fact(key)}
    for wandb_run in loggers.wandb_runs:
        wandb_run.config.update({f"{prefix}identity": digest(results.identity), **facts}, allow_val_change=True)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _not_hiding(error: BaseException) -> Iterator[None]:
    """While an error is on its way up, one of the logger is only printed; not where both say that the disk takes nothing."""
    try:
        yield
    except Exception as another:
        if explain_disk(error) is None or explain_disk(another) is None:
            say(f"the experiment logger could not record the failure: {first_line(another)}", file=sys.stderr)


def _open(config: Config, run: Run, loggers: Loggers) -> None:
    """Append each logger as soon as it is open, so that it is closed where the next one fails.

    Raises UserError for a logger that cannot be built, and for a second one of W&B, which has one run in a process.
    """
    for name, node in config.logger.nodes.items():
        path, kind = f"logger.{name}", locate(node["_target_"])
        if isinstance(kind, type) and issubclass(kind, WandbLogger):
            if loggers.wandb_runs:
                raise UserError(f"{path}: W&B has one run in a process, and another logger of W&B is there already")
            loggers.append(_open_wandb(config, run, path, node))
            continue
        # What a logger writes belongs into the folder of the run, unless its node says another place.
        wants_place = "save_dir" in arguments_of(kind).names and "save_dir" not in node
        place = {"save_dir": run.folder} if wants_place else {}
        logger = build(path, node, Logger, **place)
        loggers.append(logger)
        logger.log_hyperparams(wandb_config(run))


def _open_wandb(config: Config, run: Run, path: str, node: Mapping[str, Any]) -> WandbLogger:
    """Online where there is a key and a network; without a network offline, unless logger.mode=online was typed.

    Raises UserError for a server that refuses the run, and with logger.mode=online for one that does not answer.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    mode, typed = wandb_mode(config.logger.mode), config.logger.mode == "online"
    if mode == "online" and not is_reachable(_server()):
        if typed:
            raise UserError(
                f"logger.mode=online: {_server()} does not answer; connect, or work with logger.mode=offline"
            )
        mode = _offline_instead(run)
    import wandb

    logger = _wandb_logger(config, run, mode, path, node)
    try:
        logger.experiment  # noqa: B018  start it now: a wrong key must not wait until training has begun
    except wandb.Error as error:
        waited = any(words in str(error) for words in NO_ANSWER)
        if mode != "online" or typed or not waited:
            raise UserError(
                f"logger=wandb does not start ({error}): correct that, or work with logger.mode=offline"
            ) from None
        wandb.teardown()  # its service would not take the id of this run a second time
        logger = _wandb_logger(config, run, _offline_instead(run), path, node)
        logger.experiment  # noqa: B018
    return logger


def _wandb_logger(config: Config, run: Run, mode: str, path: str, node: Mapping[str, Any]) -> WandbLogger:
    """The logger, not started yet; what its node says goes before what the run would say."""
    import wandb

    settings = config.logger
    arguments: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "name": run_name(run),
        "id": run.id,
        "group": settings.group or run_group(run),
        "job_type": run.stage,
        "tags": run_tags(run, settings.tags),
        "save_dir": run.folder,
        "mode": mode,
        "resume": "allow",
        "config": wandb_config(run),
        "settings": wandb.Settings(init_timeout=START_S),
    }
    logger: WandbLogger = build(path, node, WandbLogger, **{k: v for k, v in arguments.items() if k not in node})
    logger._wandb_init.pop("anonymous", None)  # Lightning still passes it, and W&B warns of it on every start
    return logger


def _offline_instead(run: Run) -> str:
    """Warn that the run goes on without the server."""
    say(
        f"warning: logger=wandb: {_server()} does not answer, so this run is logged offline; "
        f"`wandb sync {run.folder}/wandb/offline-run-*` uploads it later (logger.mode=online fails instead)",
        file=sys.stderr,
    )
    return "offline"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def wandb_config(run: Run) -> dict[str, Any]:
    """Every setting under its dotted name, and every group's option, both as they are typed: `budget.epochs`, `pruning`.

    With the run's `folder`, as its name says what was typed.
    """
    return {**_flat(run.settings), **run.choices, "folder": folder_of(run)}


def wandb_mode(mode: str) -> str:
    """`auto` is what WANDB_MODE says, else online where there is a key."""
    if mode != "auto":
        return mode
    said = os.environ.get("WANDB_MODE", "")
    return {"dryrun": "offline", "run": "online"}.get(said, said) or ("online" if _has_key() else "offline")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(_server()).netloc
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


def _close(loggers: Iterable[Logger], exit_code: int) -> None:
    for logger in loggers:
        logger.finalize("success" if exit_code == 0 else "failed")
        if isinstance(logger, WandbLogger):
            import wandb

            wandb.finish(exit_code=exit_code)
