"""Everything of a configuration that can be checked without torch: a mistake is said in less than a second.

Plain values by the sections, added nodes by the source of their classes, and values that do not fit each other. What is left
to `config.py` are the objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from edgenetllm.errors import UserError
from edgenetllm.mistakes import explain_mistakes
from edgenetllm.nodes import unknown_key
from edgenetllm.option_types import FOLDER_NAME
from edgenetllm.section_checks import open_section_problems
from edgenetllm.sections import Settings, Training
from edgenetllm.task_settings import named_tasks, task_settings
from edgenetllm.trainer_options import limit_problems

GROUPS_OF_OBJECTS = ("task", "data", "model", "adapter", "pruning", "recovery", "engine", "placement")
LATER_GROUPS = ("placement",)  # a saved configuration of an older run has none


def check_plain(settings: dict[str, Any]) -> None:
    """Raises UserError that names every override to correct, as it is typed."""
    known = [*Settings.model_fields, *GROUPS_OF_OBJECTS]
    unknown = set(settings) - set(known)
    if unknown:
        raise UserError(*(unknown_key(key, known) for key in sorted(unknown)))
    for group in GROUPS_OF_OBJECTS:
        if not isinstance(settings.get(group), Mapping) and not (group in LATER_GROUPS and group not in settings):
            raise UserError(
                f"{group}={settings.get(group)!r}: this group is built from a class, which {group}._target_ names"
            )
    if named_tasks(settings["task"]) and (settings.get("budget") or {}).get("batches_per_epoch") is None:
        raise UserError("budget.batches_per_epoch is null: with several tasks, which share the batches, give a number")
    for name, own in settings_by_task(settings):
        try:
            _check(own)
        except UserError as error:
            raise UserError(*(as_typed(line, name) for line in error.args)) from None


def settings_by_task(settings: dict[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The settings of each task of a run, with its name; None and the settings themselves where there is one task.

    Raises UserError for what is no task, and for a task without its data.
    """
    names = named_tasks(settings["task"])
    if not names:
        yield None, settings
        return
    unknown = set(settings["task"]) - set(names) - {"name", "shares"}
    if unknown:
        known = [f"task.{key}" for key in ("shares", *names)]
        raise UserError(*(unknown_key(f"task.{key}", known) for key in sorted(unknown)))
    for name in names:
        yield name, task_settings(settings, name)


def as_typed(message: str, task_name: str | None) -> str:
    """The message on the settings of a task, its overrides as they are typed in a run of several: data.cjs.setting."""
    if task_name is None:
        return message
    return re.sub(r"(?<![\w/.@-])(task|data)\.(?=[a-z])", rf"\1.{task_name}.", message)


def _check(settings: dict[str, Any]) -> None:
    if named_tasks(settings["data"]):
        raise UserError(
            f"data={settings['data'].get('name')} is for several tasks: type task=abr+cjs, or data of one task"
        )
    if "data" in settings["task"]:
        raise UserError("task.data is given by the run, from another option: type data=...")
    plain = {key: value for key, value in settings.items() if key not in GROUPS_OF_OBJECTS}
    problems = open_section_problems(settings)
    try:
        valid = Settings(**plain)
    except ValidationError as error:
        raise UserError(*[*explain_mistakes(error, "", Settings, plain), *problems]) from None
    if valid.budget.batches_per_epoch:  # else it follows from the data: stages/finite_budget.py
        problems = problems or limit_problems(valid.trainer, valid.budget)
    if problems:
        raise UserError(*problems)
    _cross_checks(settings)
    _check_devices(valid.trainer)


def _cross_checks(settings: dict[str, Any]) -> None:
    """Raises UserError for values of different groups that do not fit each other."""
    for group in ("task", "data", "model"):
        name = settings[group].get("name") if isinstance(settings[group], dict) else None
        if not (isinstance(name, str) and re.fullmatch(FOLDER_NAME, name)):
            raise UserError(
                f"{group}.name={name!r}: names of folders are made of it: use letters, digits and ._+- only"
            )
    _check_experience(settings["experience"])
    learns_from_expert = any(entry["policy"] == "expert" for entry in settings["experience"]["shares"])
    if learns_from_expert and settings["experience"].get("expert") is None:
        raise UserError("experience.shares names the policy expert: type experience=expert, which makes it")
    specialise = settings.get("specialise")
    if specialise and specialise["steps"] % specialise["validate_every"]:
        raise UserError(
            f"specialise.steps={specialise['steps']}: give a multiple of specialise.validate_every="
            f"{specialise['validate_every']}, so that the last steps are validated too"
        )


def _check_experience(node: dict[str, Any]) -> None:
    """Raises UserError where there is nothing to learn from, and for both logs and policies."""
    if node.get("folder") is None and node["name"] == "recorded":
        raise UserError("experience.folder is missing: give the folder of the logged decisions (docs/logs.md)")
    if node.get("folder") is None and not node["shares"]:
        raise UserError("experience.shares is empty: name at least one policy to learn from")
    if node.get("folder") is not None and node["shares"]:
        raise UserError(
            "experience.folder and experience.shares: a run learns from logged decisions, or from policies that play: type "
            "experience=recorded for the former"
        )


def _check_devices(trainer: Training) -> None:
    """Raises UserError for numbers of devices that the strategy, the accelerator or the batch does not allow."""
    if trainer.strategy == "auto" and (trainer.devices != 1 or trainer.num_nodes != 1):
        key = "devices" if trainer.devices != 1 else "num_nodes"
        raise UserError(
            f"trainer.{key}={getattr(trainer, key)}: more than one device needs trainer=ddp or trainer=fsdp"
        )
    if trainer.strategy != "auto" and trainer.accelerator == "cpu" and trainer.devices is None:
        raise UserError(
            "trainer.devices=null stands for all GPUs: with trainer.accelerator=cpu give a number of processes, or "
            "start them by torchrun"
        )
    parts = trainer.ranks * trainer.accumulate
    if trainer.batch_size < parts:
        raise UserError(
            f"trainer.batch_size={trainer.batch_size}: it is that of all devices together and cannot be cut into "
            f"trainer.devices x num_nodes x accumulate = {parts} parts"
        )
