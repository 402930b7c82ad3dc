"""The one border between YAML and the library: a resolved configuration becomes validated objects, or a clear error.

Plain values are validated by the sections of `sections.py`; groups with a `_target_` (task, data, model, engine and others)
are built by Hydra into classes that validate their own options (`instantiation.py`). Nothing expensive starts before all of
it has been checked.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any

from pydantic import SkipValidation, ValidationError

from edgenetllm.affects import Affects, options_for
from edgenetllm.compute import Compute, compute_of
from edgenetllm.edge.engines.engine import Engine
from edgenetllm.errors import UserError
from edgenetllm.experience.expert import ExpertSearch
from edgenetllm.experience.objective import Objective
from edgenetllm.experience.task_weights import split_by_task, task_fractions
from edgenetllm.instantiation import build, explain_mistakes
from edgenetllm.models.adapters import Adapter, Full
from edgenetllm.models.backbone import BackboneSource
from edgenetllm.nodes import unknown_key
from edgenetllm.placement.placements import Placement
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.recover import Recovery
from edgenetllm.pruning.zero import Zero
from edgenetllm.section_checks import open_section_problems
from edgenetllm.sections import Settings, Training
from edgenetllm.task_settings import named_tasks, task_settings
from edgenetllm.tasks.task import Task
from edgenetllm.trainer_options import limit_problems

FOLDER_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
GROUPS_OF_OBJECTS = ("task", "data", "model", "adapter", "pruning", "recovery", "engine", "placement")
# Names in the folder of a run, where the results of a task have a folder of the task's name.
RUN_ENTRIES = (
    "bundle",
    "old_domain",
    "checkpoints",
    "expert",
    "plots",
    "csv",
    "tensorboard",
    "wandb",
    "lightning_logs",
)


class Built(Settings):
    """Plain values and the objects built from the groups that have a `_target_`; `settings` is the resolved configuration."""

    settings: SkipValidation[dict[str, Any]]

    # Built into the configuration of each task; the data set is its task's.
    task: Annotated[SkipValidation[Any], Affects("pool", again=True)] = None
    data: Annotated[SkipValidation[Any], Affects("pool", again=True)] = None
    model: SkipValidation[BackboneSource]
    adapter: SkipValidation[Adapter]
    pruning: Annotated[SkipValidation[Pruning], Affects("pruning")]
    recovery: Annotated[SkipValidation[Recovery], Affects("pruning")]
    engine: Annotated[SkipValidation[Engine], Affects("evaluation")]
    placement: Annotated[SkipValidation[Placement], Affects("evaluation")] = Placement()

    @cached_property
    def compute(self) -> Compute:
        """The processes, threads and number format of the run on this machine, decided once."""
        return compute_of(self)


class TaskConfig(Built):
    """The configuration of one of the tasks of a run: as of a run of this task alone."""

    task: SkipValidation[Task]

    @property
    def pool_seed(self) -> int:
        """The seed of the expert and the pool: runs with different seeds may share them."""
        return self.seed if self.experience.seed is None else self.experience.seed

    @property
    def data_options(self) -> dict[str, Any]:
        """Options of the task and its data that can change what an episode is, and what is recorded of it."""
        return options_for("pool", {group: self.settings[group] for group in ("task", "data")}, Config)


class Config(Built):
    """The configuration of a run of one or more tasks.

    What can differ by task is to be read in `tasks`, task name -> its configuration; all else is the same in all of them.
    `task_weights` are the fractions of a batch and of the loss, which sum to 1.
    """

    tasks: SkipValidation[dict[str, TaskConfig]]
    task_weights: dict[str, float]

    @property
    def task_name(self) -> str:
        """`abr`, or of several tasks `abr+cjs`."""
        return "+".join(self.tasks)

    @cached_property
    def task_objects(self) -> dict[str, Task]:
        """Task name -> task."""
        return {name: of_task.task for name, of_task in self.tasks.items()}

    @cached_property
    def objective(self) -> Objective:
        """The figure that chooses the checkpoint, and that a search optimises."""
        return Objective(self.task_objects)


def load_config(settings: dict[str, Any]) -> Config:
    """Validate a resolved configuration. Raises UserError that names every override to correct."""
    known = [*Settings.model_fields, *GROUPS_OF_OBJECTS]
    unknown = set(settings) - set(known)
    if unknown:
        raise UserError(*(unknown_key(key, known) for key in sorted(unknown)))
    several = named_tasks(settings["task"])
    if several:
        tasks = {name: _load_one_of(settings, several, name) for name in several}
        weights = settings["task"]["shares"]
    else:
        only = _load(settings)
        tasks, weights = {only.task.name: only}, None
    first = next(iter(tasks.values()))
    fractions = task_fractions(list(tasks), weights)
    _check_sequences(settings, first, fractions)
    same = {name: getattr(first, name) for name in Built.model_fields if name not in ("task", "data")}
    return Config.model_construct(**{**same, "settings": settings, "tasks": tasks, "task_weights": fractions})


def _check_sequences(settings: dict[str, Any], first: TaskConfig, fractions: dict[str, float]) -> None:
    """Raises UserError where a batch, or the windows of the calibration, are too few for all tasks."""
    smallest = min(split_by_task(first.trainer.batch_size, fractions, "trainer.batch_size").values())
    if smallest < (cut := first.trainer.ranks * first.trainer.accumulate):
        raise UserError(
            f"trainer.batch_size={first.trainer.batch_size}: a task's share of it is {smallest} (task.shares) and cannot be "
            f"cut into trainer.devices x num_nodes x accumulate = {cut} parts"
        )
    split_by_task(first.pruning.windows, fractions, "pruning.windows")
    for key in ("batch_size", "windows"):
        if key in settings["recovery"] and not (key == "batch_size" and "windows" in settings["recovery"]):
            split_by_task(settings["recovery"][key], fractions, f"recovery.{key}")


def _load_one_of(settings: dict[str, Any], names: list[str], name: str) -> TaskConfig:
    """The configuration of one of several tasks.

    An error names the override as it is typed there: data.cjs.setting, not data.setting.
    """
    unknown = set(settings["task"]) - set(names) - {"name", "shares"}
    if unknown:
        known = [f"task.{key}" for key in ("shares", *names)]
        raise UserError(*(unknown_key(f"task.{key}", known) for key in sorted(unknown)))
    own = task_settings(settings, name)
    try:
        loaded = _load(own)
    except UserError as error:
        typed = (re.sub(r"(?<![\w/.@-])(task|data)\.(?=[a-z])", rf"\1.{name}.", line) for line in error.args)
        raise UserError(*typed) from None
    if loaded.task.name != name:
        raise UserError(f"task@task.{name}={loaded.task.name}: under this name belongs task {name}")
    return loaded


def _load(settings: dict[str, Any]) -> TaskConfig:
    """The configuration of one task from the settings of a run of it alone."""
    if named_tasks(settings["data"]):
        raise UserError(
            f"data={settings['data'].get('name')} is for several tasks: type task=abr+cjs, or data of one task"
        )
    # Plain values, and the named nodes that are added to them.
    plain = {key: value for key, value in settings.items() if key not in GROUPS_OF_OBJECTS}
    problems = open_section_problems(settings)
    try:
        valid = Settings(**plain)
    except ValidationError as error:
        raise UserError(*explain_mistakes(error, "", Settings), *problems) from None
    problems = problems or limit_problems(valid.trainer, valid.budget)
    if problems:
        raise UserError(*problems)
    # Values that must fit each other.
    _cross_checks(settings)
    _check_devices(valid.trainer)
    # Objects: the expert search, the task with its data, then the other groups.
    plain["experience"] = {**plain["experience"], "expert": _expert_search(settings)}
    task = load_task(settings)
    if task.name in RUN_ENTRIES:
        raise UserError(f"task.name={task.name}: the folder of a run has something else of this name: choose another")
    groups = [
        group for group in GROUPS_OF_OBJECTS[2:] if group in settings or group != "placement"
    ]  # older runs have none
    built = {group: build(group, settings[group]) for group in groups}
    config = TaskConfig(**plain, settings=settings, task=task, **built)
    if not isinstance(config.engine, Engine):
        raise UserError(
            f"engine: {settings['engine']['_target_']} is no subclass of edgenetllm.edge.engines.engine.Engine"
        )
    if not isinstance(config.placement, Placement):
        raise UserError(
            f"placement: {settings['placement']['_target_']} is no subclass of edgenetllm.placement.placements.Placement"
        )
    # Objects that do not go together.
    if (config.sparsity == 1) != isinstance(config.pruning.method, Zero):
        raise UserError(
            f"sparsity={config.sparsity:g}: give a share in [0, 1); the control that zeroes the whole backbone is "
            "pruning=zero sparsity=1"
        )
    if config.pruning.also and config.recovery.name == "specialise":
        raise UserError("recovery=specialise would fill the zeros of pruning.also: leave one of the two away")
    if isinstance(config.adapter, Full) and config.trainer.strategy == "fsdp":
        raise UserError("adapter=full leaves no frozen weight that trainer=fsdp could shard: type trainer=ddp")
    if isinstance(config.adapter, Full) and config.pruning.lora == "prune_base_keep_adapter":
        raise UserError(
            "pruning.lora=prune_base_keep_adapter needs adapter=lora: with adapter=full there is none to keep"
        )
    return config


def load_task(settings: dict[str, Any]) -> Task:
    """The task of a resolved configuration, bound to its data. Raises UserError like `load_config`."""
    task: Task = build("task", settings["task"], data=build("data", settings["data"]))
    if absent := [name for name in ("name", "metrics", "max_steps") if not hasattr(task, name)]:
        raise UserError(
            f"task: {settings['task']['_target_']} has no {' and no '.join(absent)}, see edgenetllm.tasks.task"
        )
    return task


def _expert_search(settings: dict[str, Any]) -> ExpertSearch | None:
    """The search of the task's own entry in experience.expert; None where the experience has no expert."""
    nodes, task = settings["experience"].get("expert"), settings["task"]["name"]
    if nodes is None:
        return None
    if "_target_" in nodes:  # `task_settings` has chosen that of the task
        return build("experience.expert", nodes)
    if task not in nodes:
        raise UserError(f"experience.expert has an entry for {', '.join(nodes)}, but none for task={task}")
    return build(f"experience.expert.{task}", nodes[task])


def _cross_checks(settings: dict[str, Any]) -> None:
    """Raises UserError for values of different groups that do not fit each other."""
    for group in ("task", "data", "model"):
        name = settings[group].get("name") if isinstance(settings[group], dict) else None
        if not (isinstance(name, str) and re.fullmatch(FOLDER_NAME, name)):
            raise UserError(
                f"{group}.name={name!r}: names of folders are made of it: use letters, digits and ._+- only"
            )
    if settings["trainer"]["warmup_steps"] >= settings["budget"]["epochs"] * settings["budget"]["batches_per_epoch"]:
        raise UserError("trainer.warmup_steps must be smaller than budget.epochs x budget.batches_per_epoch")
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
    if not settings["evaluation"]["targets"]:
        raise UserError("evaluation.targets is empty: give at least one quantile, such as [0.9]")


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
