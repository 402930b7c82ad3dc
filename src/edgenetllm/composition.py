"""Plain settings from what Hydra composed; with `run=` those of that run, with only what was typed replaced."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from edgenetllm.affects import locations_in, of_command, of_later_stages, shaping
from edgenetllm.commands import config_dir, value_of
from edgenetllm.errors import UserError
from edgenetllm.installation import CONF as CONF
from edgenetllm.installation import program_of
from edgenetllm.mistakes import shown
from edgenetllm.moved import current_choices
from edgenetllm.run import CHOICES_FILE, CONFIG_FILE
from edgenetllm.saved_config import check_own_options, read_config, read_saved, varied_by
from edgenetllm.trust import check_saved_choices
from edgenetllm.typed_checks import check_typed

PRESET_GROUPS = ("sweep", "experiment", "ablation")  # groups without a node of their own: they change others
STAGE_GROUPS = ("specialise",)  # groups of the one stage that they are named after
LEARNT_AGAIN = {
    "specialise": ("experience", "evaluation")
}  # stage -> groups of an adaptation that it uses in its own way


def settings_of(composed: DictConfig, hydra_config: Any, stage: str = "train") -> tuple[dict[str, Any], dict[str, Any]]:
    """The resolved configuration (that of `run=`, with what was typed) and the option chosen in each group.

    Groups of other stages are left out. Raises UserError where one of their options was typed.
    """
    chosen = hydra_config.runtime.choices
    check_choices(chosen)
    groups = [group for group in chosen if "hydra" not in group and group not in PRESET_GROUPS]
    choices = {group: chosen[group] for group in groups if "/" not in group}  # data/folder follows from data and task
    settings = _plain(_with_homes(composed))
    for other in (group for group in STAGE_GROUPS if group != stage):
        for word in hydra_config.overrides.task:
            if word.lstrip("+~").startswith((f"{other}=", f"{other}.")):
                raise UserError(f"{word}: an option of {program_of(other)}, not of {program_of(stage)}")
        settings.pop(other, None)
    check_typed(hydra_config.overrides.task, settings, set(chosen))
    choices = {group: choice for group, choice in choices.items() if group not in STAGE_GROUPS}
    if settings.get("run"):
        settings = settings_of_run(Path(settings["run"]), settings, choices, list(hydra_config.overrides.task), stage)
    return settings, choices


def check_choices(chosen: Mapping[str, Any]) -> None:
    """Raises UserError for an option that is not there of a group that only changes others: Hydra would ignore it."""
    for group in PRESET_GROUPS:
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        if chosen.get(group) is not None and chosen[group] not in options:
            raise UserError(no_such_option(group, chosen[group], options))


def no_such_option(group: str, option: str, options: Sequence[str]) -> str:
    """The sentence that refuses `group=option`, with what is meant."""
    near = difflib.get_close_matches(option, options, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}? " if near else ""
    own = "; options of your own lie in the folder that --config-dir names"
    return f"{group}={option}: there is no such option. {hint}There are {', '.join(options)}{own}"


def config_folders(words: Sequence[str]) -> list[Path]:
    """The folders of config groups for a command with these words: `conf/`, and that of `--config-dir`."""
    own = config_dir(words)
    return [CONF] if own is None else [CONF, own.absolute()]


def require_parent(stage: str, settings: dict[str, Any]) -> None:
    """Raises UserError when a stage that starts from a run was given none, and for a player that plays none yet."""
    if settings.get("verify") and stage != "evaluate":
        raise UserError(f"verify={settings['verify']}: {program_of('evaluate')} verify=RUN replays a finished run")
    if stage != "train" and not settings.get("run"):
        raise UserError(f"{program_of(stage)} needs the folder of a run: run=logs/...")
    if stage != "evaluate" and settings.get("replay", {}).get("name") == "player":
        raise UserError(
            f"replay=player: {program_of('evaluate')} run=... plays the bundle of a finished run in the player"
        )


def insert_choices(stage: str, argv: list[str]) -> None:
    """After a typed `run=`, add the config groups of that run, so that keys of its groups can be overridden.

    Groups that are typed, or that a typed `sweep=` varies, are left to the user, and with a typed group those inside it.
    Raises UserError for a run that is not there, for train.py, which starts from none, and for a file of `--config-dir`
    that is no plain YAML.
    """
    if (own := config_dir(argv[1:])) is not None:
        check_own_options(own)
    at = next((number for number, argument in enumerate(argv) if argument.startswith("run=")), None)
    if at is None:
        return
    if stage == "train":
        train, prune, evaluate, specialise = map(program_of, ("train", "prune", "evaluate", "specialise"))
        raise UserError(
            f"{argv[at]}: {train} starts a new run; {prune} and {evaluate} go on from one, as {specialise} does"
        )
    folder = Path(value_of(argv[at]))
    if _is_sweep(argv[at]) and not os.path.isdir(folder):
        raise UserError(
            f"{argv[at]}: a command goes on from one run, whose settings it takes over; type it once for each run"
        )
    _require_run(folder)
    taken = {argument.partition("=")[0].lstrip("+~") for argument in argv[1:]}  # a group, or data@data.abr
    for argument in argv[1:]:
        for conf in config_folders(argv[1:]) if argument.startswith("sweep=") else []:
            path = conf / "sweep" / f"{value_of(argument)}.yaml"
            if path.is_file():
                taken |= varied_by(path)
    saved = current_choices(read_config(folder / CHOICES_FILE))
    check_saved_choices(saved, str(folder / CHOICES_FILE))
    taken.add("launcher")
    inherited = {
        str(group): choice for group, choice in saved.items() if not taken & {group, str(group).partition("@")[0]}
    }
    argv[at + 1 : at + 1] = [f"{group}={choice!s}" for group, choice in inherited.items()]


def saved_settings(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a run saved, its data where `settings`, those of this call, say that data lies."""
    _require_run(folder)
    saved = OmegaConf.create(read_saved(folder, settings))
    for key, of in locations_in(_container(saved)).items():
        if of == "data_dir":
            OmegaConf.update(saved, key, settings["paths"]["data_dir"])
    return _container(saved)


def follows_seed(composed: DictConfig) -> list[str]:
    """Dotted keys of the options that are set to the training seed by interpolation: they differ with it."""
    other = _plain(composed)
    changed = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(composed, _ours(composed)), resolve=False))
    changed.seed = int(other["seed"]) + 1
    return [key for key in differing(other, _container(changed), "") if key != "seed"]


def differing(one: Any, other: Any, path: str) -> list[str]:
    """Dotted keys of the values that are not the same in two settings of the same keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [key for name in one for key in differing(one[name], other.get(name), f"{path}.{name}".lstrip("."))]
    return [] if one == other else [path]


def _with_homes(composed: DictConfig) -> DictConfig:
    """The same with `~` in `paths` replaced by the user's folder, also where other options follow them."""
    expanded = copy.deepcopy(composed)
    OmegaConf.set_readonly(expanded, False)
    for key in composed.paths:
        value = composed.paths[key]
        if isinstance(value, str) and value.startswith("~"):
            OmegaConf.update(expanded, f"paths.{key}", str(Path(value).expanduser()))
    return expanded


def _ours(config: Any) -> list[Any]:
    return [key for key in config if key != "hydra"]


def _plain(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain containers, without Hydra's own node."""
    return _container(OmegaConf.masked_copy(config, _ours(config)))


def _container(config: Any) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _is_sweep(word: str) -> bool:
    """True for several values that Hydra would run one after the other."""
    try:
        return bool(OverridesParser.create().parse_override(word).is_sweep_override())
    except HydraException:
        return False


def _require_run(folder: Path) -> None:
    if not all(os.path.isfile(folder / name) for name in (CONFIG_FILE, CHOICES_FILE)):
        raise UserError(
            f"run={shown(str(folder))}: not the folder of a run (no {CONFIG_FILE} and {CHOICES_FILE} in it)"
        )


def settings_of_run(
    folder: Path, composed: dict[str, Any], choices: dict[str, Any], overrides: list[str], stage: str = "prune"
) -> dict[str, Any]:
    """The resolved configuration that the run saved, with only what was typed replaced.

    A typed group (`pruning=magnitude`) replaces the whole group, but where it is the run's own choice, whose options stay;
    a typed key (`sparsity=0.6`) replaces that key. What shaped the adaptation stays, also where its group is typed
    (`trainer=gpu`); typed itself, with another value, it raises UserError, but for what the `stage` learns again.
    """
    from edgenetllm.config import Config  # imports torch: only where a run is read

    # The configuration and the choices that the run saved.
    _require_run(folder)
    saved = OmegaConf.create(read_saved(folder, composed))
    saved_choices = current_choices(read_config(folder / CHOICES_FILE))
    check_saved_choices(saved_choices, str(folder / CHOICES_FILE))
    OmegaConf.set_struct(saved, False)
    if stage == "specialise" and _another_task_on_the_same_data(choices, saved_choices):
        raise UserError(
            f"task={choices['task']}: {folder} learnt task={saved_choices['task']}; name the data of the other task too, "
            "such as data=tpch or data=fcc"
        )
    # Replace what was typed.
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        group = key if override.package is None else f"{key}@{override.package}"
        if key == "sweep":
            continue
        if key in ("experiment", "ablation"):
            raise UserError(f"{key}= shapes a new run: with run= type the keys to change instead")
        if group in choices and saved_choices.get(group) == override.value():
            continue
        if (
            override.package is not None and key in composed
        ):  # data@data.abr=norway: inside the group, whose name follows
            OmegaConf.update(saved, f"{key}.name", composed[key].get("name"))
            key = override.package
        learnt_again = key.partition(".")[0] in LEARNT_AGAIN.get(stage, ())
        shaped_before = (
            {}
            if learnt_again
            else _kept(
                key,
                composed,
                _container(saved),
                f"{override.input_line}: shapes an adaptation or its pool, which run={folder} has already",
            )
        )
        value = OmegaConf.select(OmegaConf.create(composed), key)
        for name, replaced in {key: value, **shaped_before}.items():
            OmegaConf.update(saved, name, replaced, merge=False, force_add=True)
    # What belongs to this command, and not to that run.
    for key in of_command(composed, Config):
        if "." not in key or OmegaConf.select(saved, key) is not None:
            value = OmegaConf.select(OmegaConf.create(composed), key)
            OmegaConf.update(saved, key, value, merge=False, force_add=True)
    return _container(saved)


def _another_task_on_the_same_data(choices: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    return choices.get("task") != saved.get("task") and choices.get("data") == saved.get("data")


def _kept(key: str, composed: dict[str, Any], saved: dict[str, Any], refusal: str) -> dict[str, Any]:
    """Options in a typed key or group that shaped the adaptation, as they were there.

    Raises UserError where one of them has another value now, but not for a group that also has options of later stages.
    """
    from edgenetllm.config import Config  # imports torch: only where a run is read

    def inside(name: str) -> bool:
        return name == key or name.startswith(f"{key}.")

    now, before = (
        {name: value for name, value in shaping(settings, Config).items() if inside(name)}
        for settings in (composed, saved)
    )
    is_shared = isinstance(composed.get(key), dict) and any(map(inside, of_later_stages(composed, Config)))
    if now != before and not is_shared:
        raise UserError(refusal)
    return before
