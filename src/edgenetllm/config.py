"""The one border between YAML and the library: a resolved configuration becomes validated objects, or a clear error.

Groups with a `_target_` (task, data, model, adapter) are built by Hydra into classes that validate their own options;
everything else is a dataclass below. Nothing expensive starts before all of it has been checked.
"""

from __future__ import annotations

import dataclasses
import re
import traceback
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger as LightningLogger
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SkipValidation,
    ValidationError,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from edgenetllm.affects import Affects, OfCommand
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry
from edgenetllm.experience.expert import ExpertSearch
from edgenetllm.experience.objective import Objective
from edgenetllm.experience.task_weights import split_by_task, task_fractions
from edgenetllm.models.adapters import Adapter, Full
from edgenetllm.models.backbone import BackboneSource
from edgenetllm.models.module import AdaptationModule
from edgenetllm.nodes import added, node_problems, target_problems, unknown_key
from edgenetllm.parallel import Backend
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.recover import Recovery
from edgenetllm.pruning.zero import Zero
from edgenetllm.task_settings import named_tasks, task_settings
from edgenetllm.tasks.task import Task
from edgenetllm.trainer_options import limit_problems, trainer_problems

Name = Annotated[str, Affects("nothing")]  # of a preset
AGAIN = Affects("adaptation", again=True)  # of the adaptation, and of each later stage
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what numpy's and Lightning's generators take


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class OpenSection(Section):
    """Takes more than its own options: `added` are the named nodes, or arguments, that are added to them."""

    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)

    @property
    def added(self) -> dict[str, Any]:
        return added(self.model_extra)


def _limit(value: Any) -> Any:
    """Raises ValueError for what is neither a number of batches nor a share of them."""
    share = isinstance(value, float) and 0 < value <= 1
    if share or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("give a number of batches, such as 3, or a share in (0, 1], such as 0.5")


def _few(value: Any) -> Any:
    """Raises ValueError for what is neither yes, no nor a number of batches."""
    if isinstance(value, int) and value >= 0:  # so is a bool
        return value
    raise ValueError("give true, or a number of batches")


Few = Annotated[Any, AfterValidator(_few)]
Limit = Annotated[Any, AfterValidator(_limit)]


class Paths(Section):
    data_dir: Path  # data sets
    cache_dir: Path  # what is made once: converted backbones, pools, experts, adaptations, replays, bounds
    log_dir: Path  # runs


class Budget(Section):
    name: Name
    episodes: PositiveInt  # episodes in the pool, shared out by experience.shares
    epochs: PositiveInt  # each ends with a validation and a checkpoint
    batches_per_epoch: PositiveInt


class Experience(Section):
    name: Name
    shares: list[PoolEntry]
    workers: Annotated[PositiveInt, Affects("nothing")]  # processes that collect
    backend: Annotated[Backend, Affects("nothing")] = "joblib"  # where they run; older saved configurations have none
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the pool's episodes that adaptation and pruning see
    seed: Seed | None = None  # of the expert and the pool; null: that of the run
    expert: Any = None  # an ExpertSearch: makes the policy "expert" of the shares in the simulator first


class Training(OpenSection):
    """More arguments of the Trainer can be added to these options; they count in the adaptation's identity."""

    name: Name
    target: str = Field("lightning.Trainer", alias="_target_")  # lightning.Trainer, or a subclass
    accelerator: Annotated[Literal["cpu", "gpu"], AGAIN]
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], AGAIN
    ]  # auto: bf16 where the processor multiplies it natively
    # auto: one device; fsdp: ddp with the frozen backbone sharded
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], AGAIN] = "auto"
    # GPUs, or processes of accelerator=cpu; null: all GPUs, one process
    devices: Annotated[PositiveInt | None, AGAIN] = 1
    num_nodes: Annotated[PositiveInt, AGAIN] = 1  # machines, each with `devices` ranks that torchrun or srun starts
    # Torch threads; null: all cores. How many these are is part of identities, see stages/threads.py.
    threads: Annotated[PositiveInt | None, Affects("nothing")]
    batch_size: PositiveInt  # episodes of an optimisation step, over all devices and accumulated parts
    accumulate: Annotated[PositiveInt, AGAIN] = (
        1  # parts of a device's share of the batch, computed one after the other
    )
    # Compute activations again for the gradient: less memory, a third more time, the same bits.
    gradient_checkpointing: Annotated[bool, Affects("nothing")] = False
    adapter_lr: Annotated[float, Field(gt=0)]
    task_lr: Annotated[float, Field(gt=0)]  # encoder, head, return-to-go, time
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt
    gradient_clip: Annotated[float, Field(gt=0)]
    # With defaults: the saved configuration of an older run has none of them.
    limit_train_batches: Limit = 1.0  # of budget.batches_per_epoch: a number, or (float) a share
    limit_val_batches: Limit = 1.0  # batches of 256 validation episodes, or (float) a share of the episodes
    fast_dev_run: Few = False  # true, or a number of batches: of one epoch and of its validation

    @property
    def ranks(self) -> int:
        """Processes of the fit; where devices=null stands for all GPUs, one on each node."""
        return (self.devices or 1) * self.num_nodes

    @property
    def device(self) -> torch.device:
        """Where a single process learns, prunes and replays. Raises UserError where there is no GPU to do so."""
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError("trainer.accelerator=gpu: torch can use no GPU of this machine; type trainer=cpu")
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")


class Module(OpenSection):
    """The LightningModule of the fit, with nodes of its optimizer and scheduler; a subclass may have more arguments."""

    name: Name
    target: str = Field("edgenetllm.models.module.AdaptationModule", alias="_target_")
    optimizer: dict[str, Any] = {}
    scheduler: dict[str, Any] = {}


Node = dict[str, Any]  # with a `_target_`


class Callbacks(OpenSection):
    """The callbacks of a run, as named `_target_` nodes; others can be added. An older saved configuration has not all."""

    name: Name
    best: Node = {"_target_": "edgenetllm.models.checkpoint.BestCheckpoint"}
    last: Node = {"_target_": "edgenetllm.models.checkpoint.LastCheckpoint"}
    early_stopping: Node | None = {"_target_": "edgenetllm.models.patience.Patience"}
    progress_bar: Annotated[Node | bool | None, Affects("nothing")] = True  # false: none, also of all other long work
    pruning: Annotated[Node, Affects("pruning")] = {"_target_": "edgenetllm.pruning.callback.OneShotPruning"}
    export: Annotated[Node, Affects("pruning")] = {"_target_": "edgenetllm.edge.callback.ExportBundle"}
    patience: PositiveInt | None  # stop after this many epochs without a better validation; null: never

    @property
    def progress(self) -> bool:
        """True where long work shows how far it is."""
        return bool(self.progress_bar)

    @property
    def nodes(self) -> dict[str, Node]:
        """Name -> node of each of our own callbacks that is there."""
        progress = {"_target_": "edgenetllm.models.progress.FitProgress"}
        own = {
            "best": self.best,
            "last": self.last,
            "progress_bar": progress if self.progress_bar is True else self.progress_bar or None,
            "early_stopping": self.early_stopping if self.stops_early else None,
            "pruning": self.pruning,
            "export": self.export,
        }
        return {name: node for name, node in own.items() if node is not None}

    @property
    def stops_early(self) -> bool:
        """True where the fit may end before its last epoch."""
        return self.patience is not None or "patience" in (self.early_stopping or {})


LOGGERS = {  # nodes of the loggers that older runs chose by name alone
    "wandb": {"_target_": "lightning.pytorch.loggers.WandbLogger"},
    "csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "csv"},
    "tensorboard": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "tensorboard", "version": ""},
}


class Logger(OpenSection):
    """Loggers can be added to these options, as named `_target_` nodes."""

    name: Literal["wandb", "csv", "tensorboard"] | None = None  # of a run of an older version: its only logger
    project: str
    mode: Literal["auto", "online", "offline"]  # auto: online when an API key is set
    group: str | None
    tags: list[str]
    # With defaults: the saved configuration of an older run has neither.
    entity: str | None = None
    upload: list[Literal["pool", "adaptation", "bundle"]] = ["adaptation", "bundle"]

    @property
    def nodes(self) -> dict[str, Any]:
        """Name -> `_target_` node of each logger."""
        return {**({} if self.name is None else {self.name: LOGGERS[self.name]}), **self.added}


class Export(Section):
    name: Name
    values: Literal["fp32", "fp16", "bf16"]  # of the packed non-zeros


class Engine(Section):
    name: Literal["torch"]
    latency_decisions: PositiveInt  # decisions timed one episode at a time


class Evaluation(Section):
    targets: list[Annotated[float, Field(ge=0, le=1)]]  # quantiles of the pool's returns to try as return-to-go
    sample: Annotated[bool, Affects("evaluation")]  # sample actions instead of the greedy choice
    sample_seed: Annotated[int, Field(ge=0, le=2**63 - 1), Affects("evaluation")] = 0
    plots: Annotated[bool, Affects("nothing")]
    # Also compute what no policy can exceed, once for each set of test episodes.
    bounds: Annotated[bool, Affects("nothing")]
    # Also play the validation episodes with the sparse model: what a search optimises.
    validation: Annotated[bool, Affects("nothing")]


class Launcher(Section):
    """Where the jobs of a sweep run."""

    name: str = "basic"
    jobs: PositiveInt = 1  # at the same time
    per_machine: PositiveInt = 1  # of them on one machine, whose cores they share
    gpus: NonNegativeInt = 0  # of this machine, given to its jobs in turn; 0: left to the launcher
    batches: bool = False  # give the launcher `jobs` jobs at a time: it would start all at once


class Settings(Section):
    """Everything that is plain values."""

    experience: Experience
    budget: Budget
    trainer: Training
    callbacks: Callbacks
    export: Annotated[Export, Affects("pruning")]
    engine: Annotated[Engine, Affects("evaluation")]
    evaluation: Evaluation
    logger: Annotated[Logger, Affects("nothing")]
    # With defaults: the saved configuration of an older run has none of them.
    module: Module = Module(name="older")  # AdamW with trainer.weight_decay, WarmupCosine with trainer.warmup_steps
    launcher: Annotated[Launcher, OfCommand()] = Launcher()
    trust: Annotated[list[PackageName], OfCommand()] = []  # packages whose classes run= and resume= may build
    paths: Annotated[Paths, OfCommand()]
    # Share of zeros in the backbone's matrices; 1 only with pruning=zero.
    sparsity: Annotated[float, Field(ge=0, le=1), Affects("pruning")]
    seed: Seed
    run: Annotated[Path | None, OfCommand()]  # the run to prune or evaluate
    resume: Annotated[bool | str, OfCommand()]  # true, or the folder of an interrupted run
    dry_run: Annotated[bool, OfCommand()]


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


class TaskConfig(Built):
    """The configuration of one of the tasks of a run: as of a run of this task alone."""

    task: SkipValidation[Task]

    @property
    def pool_seed(self) -> int:
        """The seed of the expert and the pool: runs with different seeds may share them."""
        return self.seed if self.experience.seed is None else self.experience.seed


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


# Arguments that a run gives to its callbacks, and to its module.
FILLED = {
    "best": ("folder", "monitor", "mode"),
    "last": ("folder",),
    "early_stopping": ("monitor", "mode", "patience"),
    "progress_bar": (),
    "pruning": ("method", "pruning", "sparsity", "seed", "progress", "monitor", "text"),
    "export": ("folder", "values", "target_returns", "adapter", "parent"),
}
KEPT = {"best": "it is the checkpoint that is pruned", "last": "resume=true goes on from it",
        "pruning": "type sparsity=0 for a dense bundle", "export": "the bundle is what is evaluated"}  # fmt: skip
WHERE = {
    "best": "the task's first metric", "last": "paths.log_dir", "early_stopping": "the task's first metric",
    "progress_bar": "none", "pruning": "pruning=..., sparsity=..., seed=...", "export": "export=..., pruning.lora=...",
}  # fmt: skip
GIVEN = (
    "policy", "tasks", "backbone", "target_returns", "task_weights", "adapter_lr", "task_lr", "weight_decay",
    "warmup_steps", "total_steps",
)  # fmt: skip
BUILT = ("task", "data", "model", "adapter", "pruning", "recovery")
# Names in the folder of a run, where the results of a task have a folder of the task's name.
IN_A_RUN = ("bundle", "checkpoints", "expert", "plots", "csv", "tensorboard", "wandb", "lightning_logs")


def load_config(settings: dict[str, Any]) -> Config:
    """Validate a resolved configuration. Raises UserError that names every override to correct."""
    known = [*Settings.model_fields, *BUILT]
    unknown = set(settings) - set(known)
    if unknown:
        raise UserError("\n".join(unknown_key(key, known) for key in sorted(unknown)))
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
        raise UserError("\n".join(unknown_key(f"task.{key}", known) for key in sorted(unknown)))
    own = task_settings(settings, name)
    try:
        loaded = _load(own)
    except UserError as error:
        raise UserError(re.sub(r"(?<![\w/.@-])(task|data)\.(?=[a-z])", rf"\1.{name}.", str(error))) from None
    if loaded.task.name != name:
        raise UserError(f"task@task.{name}={loaded.task.name}: under this name belongs task {name}")
    return loaded


def _load(settings: dict[str, Any]) -> TaskConfig:
    """The configuration of one task from the settings of a run of it alone."""
    if named_tasks(settings["data"]):
        raise UserError(
            f"data={settings['data'].get('name')} is for several tasks: type task=abr+cjs, or data of one task"
        )
    plain = {key: value for key, value in settings.items() if key not in BUILT}
    problems = _open_sections(settings)
    try:
        valid = Settings(**plain)
    except ValidationError as error:
        raise UserError("\n".join([*_explain(error, "", Settings), *problems])) from None
    problems = problems or limit_problems(valid.trainer, valid.budget)
    if problems:
        raise UserError("\n".join(problems))
    _cross_checks(settings)
    _check_devices(valid.trainer)
    plain["experience"] = {**plain["experience"], "expert": _expert_search(settings)}
    task = load_task(settings)
    if task.name in IN_A_RUN:
        raise UserError(f"task.name={task.name}: the folder of a run has something else of this name: choose another")
    built = {group: _build(group, settings[group]) for group in BUILT[2:]}
    config = TaskConfig(**plain, settings=settings, task=task, **built)
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


def _open_sections(settings: dict[str, Any]) -> list[str]:
    """Sentences on what is wrong with nodes and arguments that were added to groups which take more than their own."""
    problems = [*_module_problems(settings), *_callback_problems(settings)]
    for group, schema, base, filled in (
        ("callbacks", Callbacks, Callback, ()),
        ("logger", Logger, LightningLogger, ("save_dir",)),
    ):
        known = [name for name in schema.model_fields if name != "name"]
        nodes = {key: node for key, node in added(settings.get(group)).items() if key not in schema.model_fields}
        problems += node_problems(group, nodes, known, base, filled)
    own = [name for name in Training.model_fields if name != "target"]
    return problems + trainer_problems(added(settings.get("trainer")), own)


def _callback_problems(settings: dict[str, Any]) -> list[str]:
    """Sentences on what is wrong with the callbacks that every run has."""
    nodes = {key: node for key, node in added(settings.get("callbacks")).items() if key in FILLED}
    left_out = [key for key in KEPT if key in (settings.get("callbacks") or {}) and key not in nodes]
    problems = [f"callbacks.{key} cannot be left out: {KEPT[key]}" for key in left_out]
    for key, node in nodes.items():
        if not isinstance(node, bool):
            problems += node_problems("callbacks", {key: node}, list(FILLED), Callback, FILLED[key])
            own = {*FILLED[key], *(field.name for field in dataclasses.fields(Pruning) if key == "pruning")} - {
                "patience"
            }
            given = [f"callbacks.{key}.{name}" for name in node if name in own] if isinstance(node, dict) else []
            problems += [f"{name} is given by the run, from other options ({WHERE[key]})" for name in given]
    section = settings.get("callbacks") or {}
    if section.get("patience") is not None and "early_stopping" in section and "early_stopping" not in nodes:
        problems.append(f"callbacks.patience={section['patience']} needs callbacks.early_stopping")
    return problems


def _module_problems(settings: dict[str, Any]) -> list[str]:
    """Sentences on what is wrong with the LightningModule, the optimizer and the scheduler."""
    module = added(settings.get("module"))
    extra = {key: value for key, value in module.items() if key not in ("name", "optimizer", "scheduler")}
    target = Module.model_fields["target"].default
    problems = target_problems("module", {"_target_": target, **extra}, AdaptationModule, GIVEN)
    for name, base, filled in (
        ("optimizer", Optimizer, ("params",)),
        ("scheduler", LRScheduler, ("optimizer", "total_steps")),
    ):
        node = (settings.get("module") or {}).get(name)
        if isinstance(node, dict) and "_target_" not in node:
            problems.append(f"module.{name} has no class: +module.{name}._target_=package.module.Class")
        elif isinstance(node, dict):
            problems += target_problems(f"module.{name}", node, base, filled)
    return problems


def load_task(settings: dict[str, Any]) -> Task:
    """The task of a resolved configuration, bound to its data. Raises UserError like `load_config`."""
    task: Task = _build("task", settings["task"], data=_build("data", settings["data"]))
    if absent := [name for name in ("name", "metrics", "max_steps") if not hasattr(task, name)]:
        raise UserError(
            f"task: {settings['task']['_target_']} has no {' and no '.join(absent)}, see edgenetllm.tasks.task"
        )
    return task


def _expert_search(settings: dict[str, Any]) -> ExpertSearch | None:
    """Of the task's own entry in experience.expert."""
    nodes, task = settings["experience"].get("expert"), settings["task"]["name"]
    if nodes is None:
        return None
    if "_target_" in nodes:  # a run of several tasks has seen to it
        return _build("experience.expert", nodes)
    if task not in nodes:
        raise UserError(f"experience.expert has an entry for {', '.join(nodes)}, but none for task={task}")
    return _build(f"experience.expert.{task}", nodes[task])


def _cross_checks(settings: dict[str, Any]) -> None:
    for group in ("task", "data", "model"):
        name = settings[group].get("name") if isinstance(settings[group], dict) else None
        if not (isinstance(name, str) and re.fullmatch(NAME, name)):
            raise UserError(
                f"{group}.name={name!r}: names of folders are made of it: use letters, digits and ._+- only"
            )
    if settings["trainer"]["warmup_steps"] >= settings["budget"]["epochs"] * settings["budget"]["batches_per_epoch"]:
        raise UserError("trainer.warmup_steps must be smaller than budget.epochs x budget.batches_per_epoch")
    if not settings["experience"]["shares"]:
        raise UserError("experience.shares is empty: name at least one policy to learn from")
    wanted = any(share["policy"] == "expert" for share in settings["experience"]["shares"])
    if wanted and settings["experience"].get("expert") is None:
        raise UserError("experience.shares names the policy expert: type experience=expert, which makes it")
    if not settings["evaluation"]["targets"]:
        raise UserError("evaluation.targets is empty: give at least one quantile, such as [0.9]")


def _check_devices(trainer: Training) -> None:
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


def _build(group: str, node: dict[str, Any], **more: object) -> Any:
    """Instantiate a `_target_` node whose class validates its own options."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}: the configuration of this group needs a _target_")
    try:
        # Partial, so that `more` reaches the class untouched: Hydra would turn dataclasses into dicts.
        return instantiate(node, _partial_=True, _convert_="all")(**more)
    except ValidationError as error:
        raise UserError("\n".join(_explain(error, f"{group}.", get_class(node["_target_"])))) from None
    except TypeError as error:  # a class that lacks methods, or that takes other arguments
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith(("hydra.", __name__)):  # an error inside of the class
            raise
        raise UserError(f"{group}: {error}") from None
    except InstantiationException as error:
        if isinstance(error.__cause__, ValidationError):  # of an object inside the group
            inner = next(key for key, value in node.items() if isinstance(value, dict) and "_target_" in value)
            schema = get_class(node[inner]["_target_"])
            raise UserError("\n".join(_explain(error.__cause__, f"{group}.{inner}.", schema))) from None
        text = str(error.__cause__ or error)
        own = "\nA package of your own has to lie on PYTHONPATH" if "No module named" in text else ""
        raise UserError(f"{group}: {text}{own}") from None


def _explain(error: ValidationError, prefix: str, schema: type) -> list[str]:
    """One line per mistake, each with the override as it is typed."""
    lines = []
    for mistake in error.errors():
        path = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(unknown_key(prefix + path, [prefix + name for name in _fields(schema, mistake["loc"][:-1])]))
        elif mistake["type"] in ("missing", "missing_argument"):
            lines.append(f"{prefix}{path} is missing from the configuration")
        elif mistake["type"] == "is_instance_of" and prefix + path == "task.data":
            name = getattr(mistake["input"], "name", mistake["input"])
            lines.append(f"data={name} is not for this task, which needs a {mistake['ctx']['class']}")
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"{prefix}{path}={mistake['input']!r}: {message[0].lower()}{message[1:]}")
    return lines


def _fields(schema: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the fields at `path`, dotted."""
    prefix = ""
    for part in path:
        schema = getattr(schema, "model_fields", {}).get(part)
        schema = getattr(schema, "annotation", None)
        prefix += f"{part}."
    if schema is not None and dataclasses.is_dataclass(schema):
        return [f"{prefix}{field.name}" for field in dataclasses.fields(schema)]
    return [f"{prefix}{name}" for name in getattr(schema, "model_fields", {})]
