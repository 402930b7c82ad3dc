"""Between Hydra and the stages: run directories, reloading a run's configuration, errors that one can read."""

from __future__ import annotations

import difflib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging as transformers_logging

from edgenetllm.config import Config, load_config
from edgenetllm.errors import UserError
from edgenetllm.run import CHOICES_FILE, CONFIG_FILE, Run, locations, run_directory
from edgenetllm.sweeps.folder import sweep_folder
from edgenetllm.sweeps.job import run_job
from edgenetllm.sweeps.plan import write_plan
from edgenetllm.sweeps.report import failed_jobs

WITHOUT_NODE = ("sweep", "experiment", "launcher")  # groups that only change other groups
CONF = Path(__file__).resolve().parents[2] / "conf"


def main(stage: str, function: Callable[[Config, Run], float | None]) -> None:
    """Compose the configuration of `stage`, validate it, call `function(config, run)`; exit code 2 for a user's error."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `_explain` whole
    try:
        # The interpolation in conf/hydra names this stage and sees the whole configuration, to find what to resume.
        chosen: list[str] = []  # asked for more than once, and must not change with the clock

        def run_dir(*, _root_: DictConfig) -> str:
            if not chosen:
                chosen.append(run_directory(stage, _settings(_root_, _root_.hydra)[0]))
            return chosen[0]

        # Of what was typed; Hydra also asks while it composes, before it has applied that.
        swept: dict[tuple[Any, ...], str] = {}

        def sweep_dir(*, _root_: DictConfig) -> str:
            numbered = str(_root_.hydra.sweeper._target_).endswith("BasicSweeper")
            logs, resume, dry_run = _root_.paths.log_dir, _root_.resume, _root_.dry_run
            key = (logs, resume, dry_run, numbered)
            if key not in swept:
                swept[key] = _sweep_directory(stage, Path(logs), resume, dry_run, numbered)
            return swept[key]

        OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
        OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True)
        _insert_choices(sys.argv)

        @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
        def entry(composed: DictConfig) -> float | None:
            return _job(stage, composed, function)

        failed_jobs.clear()
        entry()
        if failed_jobs:
            sys.exit(1)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(_explain(error), file=sys.stderr)
        sys.exit(2)


def _job(stage: str, composed: DictConfig, function: Callable[[Config, Run], float | None]) -> float | None:
    hydra_config = HydraConfig.get()
    transformers_logging.set_verbosity_error()  # its reports on blocks that were not loaded: on purpose
    settings, choices = _settings(composed, hydra_config)
    if stage != "train" and not settings.get("run"):
        raise UserError(f"{stage}.py needs the folder of a run: run=logs/...")
    sweep = Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else None
    run = Run(Path(hydra_config.runtime.output_dir), stage, settings, choices, sweep)
    if hydra_config.mode != RunMode.MULTIRUN:
        return function(load_config(settings), run)
    if settings["dry_run"]:
        write_plan(run, lambda: load_config(settings))
        return None
    logs = Path(settings["paths"]["log_dir"])
    return run_job(run, logs, bool(settings["resume"]), lambda: function(load_config(settings), run))


def _sweep_directory(stage: str, logs: Path, resume: bool | str, dry_run: bool, numbered: bool) -> str:
    """Of the jobs of `-m`; those of a dry run leave nothing behind."""
    if dry_run:
        return tempfile.mkdtemp(prefix="edgenetllm-plan-")
    return str(sweep_folder(stage, logs, sys.argv[1:], resume, numbered))


def _settings(composed: DictConfig, hydra_config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resolved configuration (that of `run=`, with what was typed) and the option chosen in each group."""
    chosen = hydra_config.runtime.choices
    choices = {group: chosen[group] for group in chosen if "hydra" not in group and group not in WITHOUT_NODE}
    settings = _plain(composed)
    if settings.get("run"):
        settings = _reload(Path(settings["run"]), settings, choices, list(hydra_config.overrides.task))
    return settings, choices


def _plain(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain containers, without Hydra's own node."""
    bare = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    container = OmegaConf.to_container(bare, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _insert_choices(argv: list[str]) -> None:
    """After a typed `run=`, add the config groups of that run, so that keys of its groups can be overridden.

    Groups that are typed, or that a typed `sweep=` varies, are left to the user.
    """
    at = next((number for number, argument in enumerate(argv) if argument.startswith("run=")), None)
    if at is None:
        return
    folder = Path(argv[at].removeprefix("run=").strip("'\""))
    _require_run(folder)
    taken = {argument.partition("=")[0].lstrip("+~").partition("@")[0] for argument in argv[1:]}
    for argument in argv[1:]:
        path = CONF / "sweep" / f"{argument.removeprefix('sweep=')}.yaml"
        if argument.startswith("sweep=") and path.is_file():
            taken |= set(OmegaConf.load(path).hydra.sweeper.params)
    saved = OmegaConf.to_container(OmegaConf.load(folder / CHOICES_FILE))
    assert isinstance(saved, dict)
    argv[at + 1 : at + 1] = [f"{group!s}={choice!s}" for group, choice in saved.items() if group not in taken]


def _require_run(folder: Path) -> None:
    if not (folder / CONFIG_FILE).is_file() or not (folder / CHOICES_FILE).is_file():
        raise UserError(f"run={folder}: not the folder of a run (no {CONFIG_FILE} and {CHOICES_FILE} in it)")


def _reload(folder: Path, composed: dict[str, Any], choices: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The resolved configuration that the run saved, with only what was typed replaced.

    A typed group (`pruning=magnitude`) replaces the whole group; a typed key (`sparsity=0.6`) that key.
    """
    saved = OmegaConf.load(folder / CONFIG_FILE)
    saved_choices = OmegaConf.to_container(OmegaConf.load(folder / CHOICES_FILE))
    assert isinstance(saved_choices, dict)
    OmegaConf.set_struct(saved, False)
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key in ("sweep", "launcher"):
            continue
        if key == "experiment":
            raise UserError("experiment= shapes a new run: with run= type the keys to change instead")
        if key in choices and saved_choices.get(key) == override.value():
            continue
        value = OmegaConf.select(OmegaConf.create(composed), key)
        OmegaConf.update(saved, key, value, merge=False, force_add=True)
    here = [key for key in locations(composed) if OmegaConf.select(saved, key) is not None]
    of_this_call = ("run", "resume", "dry_run", "paths", "pruning.force", *here)  # not of the run that it starts from
    for key in of_this_call:
        value = OmegaConf.select(OmegaConf.create(composed), key)
        OmegaConf.update(saved, key, value, merge=False, force_add=True)
    container = OmegaConf.to_container(saved)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


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
