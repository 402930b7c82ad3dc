"""Between Hydra and the stages: run directories, jobs of a sweep, errors that one can read, exit codes.

Nothing here imports torch, transformers or Lightning before a configuration has been composed: `--help` and a mistyped key
answer at once.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from edgenetllm import console
from edgenetllm.commands import going_on, with_lists, with_run, word
from edgenetllm.composition import CONF, follows_seed, insert_choices, require_parent, settings_of
from edgenetllm.disk import explain_disk, explained
from edgenetllm.errors import JobsFailed, NotReproduced, RankZeroEnded, UserError
from edgenetllm.explain import explain
from edgenetllm.interruption import Interrupted, in_workers, listening
from edgenetllm.launched import Launch, launched, place_settings
from edgenetllm.plain_checks import check_plain
from edgenetllm.printable import say
from edgenetllm.run import Run, run_directory
from edgenetllm.sweeps.gpus import claim_gpu
from edgenetllm.typed_groups import check_choices_typed

if TYPE_CHECKING:
    from edgenetllm.config import Config

    Stage = Callable[[Config, Run], float | None]

HYDRA_FOLDER = Path(".")  # its own folder of a single run (conf/hydra): ours is made when the run begins


def main(stage: str, function: Stage | None = None) -> None:
    """Compose the configuration of `stage`, validate it, call `function(config, run)`; without one, that of `stages/`.

    Exit code 2 for a user's error, also where a file could not be written, 1 when jobs of a sweep failed, 128 + n after
    signal n.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `explain` whole
    console.prepare()
    typed = sys.argv[1:]
    try:
        with listening():
            _compose_and_run(stage, function)
            sys.stdout.flush()
    # Hydra ends the process itself, after --help.
    except SystemExit:
        if console.output_is_closed():
            sys.exit(128 + signal.SIGPIPE)
        raise
    # Each error becomes one message and an exit code.
    except (JobsFailed, NotReproduced, RankZeroEnded) as error:
        _end(str(error), 1)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _end(
            _speaker() + explain(error, [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]), 2
        )
    except (Interrupted, KeyboardInterrupt) as error:
        signalled = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        _end(_how_to_go_on(signalled, typed), signalled.exit_code)
    # A closed pipe, or a disk outside of a run; anything else is a fault of the program, with its traceback.
    except Exception as error:
        if console.output_is_closed():
            sys.exit(128 + signal.SIGPIPE)
        message = explain_disk(error)
        if message is None:
            raise
        _end(f"error: {message}", 2)


def _end(message: str, code: int) -> NoReturn:
    console.output_is_closed()
    if message:
        say(*message.split("\n"), file=sys.stderr)
    sys.exit(code)


def _speaker() -> str:
    """The rank that speaks, where torchrun or srun started several; else nothing."""
    try:
        launch = launched()
    except UserError:  # it is what is said
        return ""
    return "" if launch is None or launch.rank == 0 else f"rank {launch.rank}: "


def _how_to_go_on(signalled: Interrupted, typed: Sequence[str]) -> str:
    """The message after a signal; empty for a rank above zero."""
    launch = launched()
    if launch is not None and launch.rank > 0:
        return ""
    if signalled.resume is None:
        return f"interrupted ({signalled}) before anything was begun: the same command starts again"
    command = going_on(typed, signalled.resume)
    if launch is None:
        return f"interrupted ({signalled}); go on with:\n  {command}"
    words = command.removeprefix("python ")
    return (
        f"interrupted ({signalled}); go on by {launch.launcher} as before, with these words after its own:\n  {words}"
    )


def _compose_and_run(stage: str, function: Stage | None) -> None:
    failures: list[Exception] = []  # taken past Hydra, which would print the job's overrides first

    def job(composed: DictConfig) -> float | None:
        try:
            return _job(stage, composed, function, inserted)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)
            return None

    sys.argv[1:] = check_choices_typed(with_run(with_lists(sys.argv[1:])))
    typed = list(sys.argv)
    insert_choices(stage, sys.argv)
    inserted = [word for word in sys.argv if word not in typed]
    job.stage = stage  # type: ignore[attr-defined]  # for the sweeper, which Hydra gives this function
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    if failures:
        raise failures[0]


def _job(stage: str, composed: DictConfig, function: Stage | None, inserted: Sequence[str] = ()) -> float | None:
    """A single run, or with `-m` one job of the sweep: there perhaps in a process of its own, on another machine.

    `inserted`: the overrides that nobody typed.
    """
    hydra_config = HydraConfig.get()
    console.prepare()
    settings, choices = settings_of(composed, hydra_config, stage)
    require_parent(stage, settings)
    check_plain(settings)
    launch = None if hydra_config.mode == RunMode.MULTIRUN else launched()
    settings = place_settings(launch, stage, settings)
    if launch is not None and launch.rank > 0:
        _follow(launch, settings)
        return None
    is_alone = hydra_config.mode != RunMode.MULTIRUN and launch is None
    config = _load(settings) if is_alone else None  # before Lightning is imported, for what is refused here
    run = _run_of(stage, settings, choices, hydra_config)
    run.follows_seed = follows_seed(composed)
    run.words = [word for word in hydra_config.overrides.task if word not in inserted]
    own_process = in_workers(settings["launcher"]["name"]) and hydra_config.mode == RunMode.MULTIRUN
    with listening() if own_process else nullcontext():
        try:
            return _work(stage, function, run, hydra_config, launch, config)
        except Interrupted as signalled:
            if run.interrupt():
                signalled.resume = run.folder
            raise


def _load(settings: dict[str, Any]) -> Config:
    from edgenetllm.caches import cache_folder

    cache_folder()  # before numba, matplotlib and W&B look for theirs
    from edgenetllm.config import load_config

    return load_config(settings)


def _run_of(stage: str, settings: dict[str, Any], choices: dict[str, Any], hydra_config: Any) -> Run:
    if hydra_config.mode == RunMode.MULTIRUN:
        return Run(Path(hydra_config.runtime.output_dir), stage, settings, choices, Path(hydra_config.sweep.dir).name)
    typed = Path(hydra_config.run.dir)  # hydra.run.dir=...
    folder = Path(run_directory(stage, settings)) if typed == HYDRA_FOLDER or settings["resume"] else typed
    return Run(folder, stage, settings, choices, is_new=typed == HYDRA_FOLDER and not settings["resume"])


def _follow(launch: Launch, settings: dict[str, Any]) -> None:
    """A rank of the fit that torchrun or srun started; rank zero does all else."""
    if settings["dry_run"]:
        return
    from edgenetllm.caches import cache_folder

    cache_folder()
    from edgenetllm.stages.rank import follow

    follow(launch, settings)


def _work(
    stage: str,
    function: Stage | None,
    run: Run,
    hydra_config: Any,
    launch: Launch | None = None,
    config: Config | None = None,
) -> float | None:
    """Call the stage; `config` is that of the run, where it has been loaded already."""
    from edgenetllm.caches import cache_folder

    cache_folder()  # before numba, matplotlib and W&B look for theirs
    from transformers.utils import logging as transformers_logging

    from edgenetllm.sweeps.isolation import isolated
    from edgenetllm.sweeps.job import run_job

    function = function or getattr(importlib.import_module(f"edgenetllm.stages.{stage}"), stage)

    def do(config: Config, run: Run) -> float | None:
        paths = config.paths
        folders = [run.folder, paths.cache_dir, paths.data_dir, Path(tempfile.gettempdir())]
        with explained(folders, lambda: _when_there_is_room(run)):
            return function(config, run)

    transformers_logging.set_verbosity_error()  # its reports on blocks that were not loaded: on purpose
    settings = run.settings
    if hydra_config.mode != RunMode.MULTIRUN:
        from edgenetllm.stages.meeting import leading

        with leading(None if settings["dry_run"] else launch) as agree:
            config = config or _load(settings)
            agree(config, run.config_hash)
            with isolated(config.seed):
                return _alone(run, config, do)
    claim_gpu(settings["launcher"]["gpus"], settings["launcher"]["jobs"], run.folder.parent)
    with isolated(int(settings["seed"]), Path(hydra_config.runtime.cwd)):
        return run_job(run, lambda: do(_load(settings), run))


def _when_there_is_room(run: Run) -> str:
    return f"go on with {shlex.quote(word('resume', run.folder))}" if run.state() else "type the command again"


def _alone(run: Run, config: Config, do: Stage) -> float | None:
    """A run by itself; where it is a job of a sweep that is resumed, with what belongs to a job."""
    from edgenetllm.sweeps.job import run_alone

    if run.state().get("sweep") and not config.dry_run:
        return run_alone(run, lambda: do(config, run))
    return do(config, run)
