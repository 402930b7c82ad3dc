"""The one border between YAML and the library: a resolved configuration becomes validated objects, or a clear error.

Plain values are validated by the sections of `sections.py`; groups with a `_target_` (task, data, model, engine and others)
are built by Hydra into classes that validate their own options (`instantiation.py`). Nothing expensive starts before all of
it has been checked.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import SkipValidation

from edgenetllm.affects import Affects, options_for
from edgenetllm.compute import Compute, compute_of
from edgenetllm.edge.engines.engine import Engine
from edgenetllm.errors import UserError
from edgenetllm.experience.expert import ExpertSearch
from edgenetllm.experience.objective import Objective
from edgenetllm.experience.task_weights import split_by_task, task_fractions
from edgenetllm.instantiation import build
from edgenetllm.models.adapters import Adapter, Full
from edgenetllm.models.backbone import BackboneSource
from edgenetllm.placement.placements import Placement
from edgenetllm.plain_checks import GROUPS_OF_OBJECTS, as_typed, check_plain, settings_by_task
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.recover import Recovery
from edgenetllm.pruning.zero import Zero
from edgenetllm.sections import Settings
from edgenetllm.task_settings import named_tasks
from edgenetllm.tasks.task import Task

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
    check_plain(settings)
    tasks = {}
    for name, own in settings_by_task(settings):
        try:
            loaded = _load(own)
        except UserError as error:
            raise UserError(*(as_typed(line, name) for line in error.args)) from None
        if name not in (None, loaded.task.name):
            raise UserError(f"task@task.{name}={loaded.task.name}: under this name belongs task {name}")
        tasks[loaded.task.name] = loaded
    weights = settings["task"]["shares"] if named_tasks(settings["task"]) else None
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


def _load(settings: dict[str, Any]) -> TaskConfig:
    """The configuration of one task from the checked settings of a run of it alone."""
    plain = {key: value for key, value in settings.items() if key not in GROUPS_OF_OBJECTS}
    # Objects: the expert search, the task with its data, then the other groups.
    plain["experience"] = {**plain["experience"], "expert": _expert_search(settings)}
    task = load_task(settings)
    if task.name in RUN_ENTRIES:
        raise UserError(f"task.name={task.name}: the folder of a run has something else of this name: choose another")
    built = {group: build(group, settings[group]) for group in GROUPS_OF_OBJECTS[2:] if group in settings}
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
