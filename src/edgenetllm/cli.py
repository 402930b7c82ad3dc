"""Between Hydra and the stages: run directories, jobs of a sweep, errors that one can read."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging as transformers_logging

from edgenetllm.composition import CONF, insert_choices, require_parent, settings_of
from edgenetllm.config import Config, load_config
from edgenetllm.errors import JobsFailed, UserError
from edgenetllm.run import Run, run_directory
from edgenetllm.sweeps.gpus import claim_gpu
from edgenetllm.sweeps.isolation import isolated
from edgenetllm.sweeps.job import run_alone, run_job

Stage = Callable[[Config, Run], float | None]


def main(stage: str, function: Stage) -> None:
    """Compose the configuration of `stage`, validate it, call `function(config, run)`.

    Exit code 2 for a user's error, 1 when jobs of a sweep failed.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `_explain` whole
    try:
        # The interpolation in conf/hydra names this stage and sees the whole configuration, to find what to resume.
        chosen: list[str] = []  # asked for more than once, and must not change with the clock

        def run_dir(*, _root_: DictConfig) -> str:
            if not chosen:
                chosen.append(run_directory(stage, settings_of(_root_, _root_.hydra)[0]))
            return chosen[0]

        OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
        typed = list(sys.argv)
        insert_choices(stage, sys.argv)
        inserted = [word for word in sys.argv if word not in typed]

        def job(composed: DictConfig) -> float | None:
            return _job(stage, composed, function, inserted)

        job.stage = stage  # type: ignore[attr-defined]  # for the sweeper, which Hydra gives this function
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except JobsFailed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(_explain(error), file=sys.stderr)
        sys.exit(2)


def _job(stage: str, composed: DictConfig, function: Stage, inserted: Sequence[str] = ()) -> float | None:
    """A single run, or with `-m` one job of the sweep: there perhaps in a process of its own, on another machine.

    `inserted`: the overrides that nobody typed.
    """
    hydra_config = HydraConfig.get()
    transformers_logging.set_verbosity_error()  # its reports on blocks that were not loaded: on purpose
    settings, choices = settings_of(composed, hydra_config)
    require_parent(stage, settings)
    sweep = Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else None
    words = [word for word in hydra_config.overrides.task if word not in inserted]
    run = Run(Path(hydra_config.runtime.output_dir), stage, settings, choices, sweep, words)
    if hydra_config.mode != RunMode.MULTIRUN:
        config = load_config(settings)
        with isolated(config.seed):
            if run.state().get("sweep") and not config.dry_run:  # a job of a sweep, resumed by itself
                return run_alone(run, lambda: function(config, run))
            return function(config, run)
    claim_gpu(settings["launcher"]["gpus"], settings["launcher"]["jobs"], run.folder.parent)
    with isolated(int(settings["seed"]), Path(hydra_config.runtime.cwd)):
        return run_job(run, lambda: function(load_config(settings), run))


def _explain(error: BaseException) -> str:
    """One readable message: the user's error under Hydra's wrapping, or Hydra's own with a suggestion."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return f"error: {cause}"
        cause = cause.__cause__ or cause.__context__
    message = str(error).strip()
    if isinstance(error, ConfigCompositionException):
        unknown = re.search(r"Could not override '([^']+)'", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], _known_keys(), n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else " `--cfg job` shows all keys."
            return f"error: {unknown[1]!r} is not a key of the configuration.{hint}"
    if error.__cause__ is not None:
        message += f"\n{error.__cause__}"
    return f"error: {message}"


def _known_keys() -> list[str]:
    """Dotted keys of the default configuration, for suggestions."""
    keys: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                keys.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        walk(OmegaConf.to_container(compose("config"), resolve=False), "")
    return keys
