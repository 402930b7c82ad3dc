"""The sections of a configuration that are plain values, with the values that each option accepts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from edgenetllm.affects import Affects, OfCommand
from edgenetllm.errors import UserError
from edgenetllm.experience.entries import CutOff, NumberOrAll, PoolEntry
from edgenetllm.nodes import added
from edgenetllm.option_types import (
    LARGEST,
    NUMBER,
    Backend,
    Count,
    CountOrZero,
    ExistingFolder,
    FolderPath,
    Fraction,
    FractionOrZero,
    LearningRate,
    NotNegative,
    PathOrName,
    Positive,
    Processes,
    Seed,
    Text,
    WritableFolder,
    listed,
)

if TYPE_CHECKING:  # nothing here imports torch: a mistake is said at once
    import torch

    from edgenetllm.edge.agent.guarded import Safety

Name = Annotated[Text, Affects("nothing")]  # of a preset
AGAIN = Affects("adaptation", again=True)  # read by the adaptation, and by each later stage for itself
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class OpenSection(Section):
    """A section that takes more than its own options: `added` are the named nodes, or arguments, that are added to them."""

    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)

    @property
    def added(self) -> dict[str, Any]:
        return added(self.model_extra)


def _limit(value: Any) -> Any:
    """Raises ValueError for what is neither a number of batches nor a fraction of them."""
    is_fraction = isinstance(value, float) and 0 < value <= 1
    if is_fraction or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST):
        return value
    raise ValueError("give a number of batches, such as 3, or a share in (0, 1], such as 0.5")


def _few(value: Any) -> Any:
    """Raises ValueError for what is neither yes, no nor a number of batches."""
    if isinstance(value, int) and 0 <= value <= LARGEST:  # so is a bool
        return value
    raise ValueError("give true, or a number of batches")


WHOLE = {"type": "integer", "minimum": 1, "maximum": LARGEST}
SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
Few = Annotated[Any, AfterValidator(_few), WithJsonSchema({"anyOf": [{"type": "boolean"}, {**WHOLE, "minimum": 0}]})]
Limit = Annotated[Any, AfterValidator(_limit), WithJsonSchema({"anyOf": [WHOLE, SHARE]})]


class Paths(Section):
    data_dir: FolderPath  # data sets
    cache_dir: WritableFolder  # what is made once: converted backbones, pools, experts, adaptations, replays, bounds
    log_dir: WritableFolder  # runs


class Budget(Section):
    name: Name
    # episodes in the pool, shared out by experience.shares; null: all of a task whose training episodes are finite
    episodes: NumberOrAll
    epochs: Count  # each ends with a validation and a checkpoint
    batches_per_epoch: NumberOrAll  # null: as many as go once over the pool of such a task


class Experience(Section):
    name: Name
    shares: list[PoolEntry]
    workers: Annotated[Processes, Affects("nothing")]  # processes that collect
    backend: Annotated[Backend, Affects("nothing")] = "joblib"  # where they run; older saved configurations have none
    fraction: Fraction = 1.0  # of the pool's episodes: those that adaptation and pruning see
    seed: Seed | None = None  # of the expert and the pool; null: that of the run
    expert: Any = None  # an ExpertSearch: makes the policy "expert" of the shares in the simulator first
    # Logged decisions, to learn from in place of `shares` (experience=recorded): their content counts, not where it lies.
    folder: Annotated[FolderPath | None, Affects("nothing")] = None
    best: Fraction = 1.0  # fraction of them that is kept: episodes of the highest returns
    cut_off: CutOff = "leave_out"  # logged episodes without their end: leave_out, keep


class Training(OpenSection):
    """Options of the Trainer, to which more of its arguments can be added; they count in the adaptation's identity."""

    name: Name
    target: str = Field("lightning.Trainer", alias="_target_")  # lightning.Trainer, or a subclass
    accelerator: Annotated[Literal["cpu", "gpu"], AGAIN]
    # auto: bf16 where the processor multiplies it natively
    precision: Annotated[Literal["auto", "fp32", "bf16"], AGAIN]
    # auto: one device; fsdp: ddp with the frozen backbone sharded
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], AGAIN] = "auto"
    # GPUs, or processes of accelerator=cpu; null: all GPUs, one process
    devices: Annotated[Processes | None, AGAIN] = 1
    num_nodes: Annotated[Processes, AGAIN] = 1  # machines, each with `devices` ranks that torchrun or srun starts
    # Torch threads; null: all cores. How many these are is part of identities, see stages/threads.py.
    threads: Annotated[Processes | None, Affects("nothing")]
    batch_size: Count  # episodes of an optimisation step, over all devices and micro-batches
    # micro-batches of a device's shard of the batch, computed one after the other
    accumulate: Annotated[Count, AGAIN] = 1
    # Compute activations again for the gradient: less memory, a third more time, the same bits.
    gradient_checkpointing: Annotated[bool, Affects("nothing")] = False
    adapter_lr: LearningRate
    task_lr: LearningRate  # encoder, head, return-to-go, time
    weight_decay: NotNegative
    warmup_steps: CountOrZero
    gradient_clip: Positive
    # With defaults: the saved configuration of an older run has none of them.
    limit_train_batches: Limit = 1.0  # of budget.batches_per_epoch: a number, or (float) a fraction
    limit_val_batches: Limit = 1.0  # batches of 256 validation episodes, or (float) a fraction of them
    fast_dev_run: Few = False  # true, or a number of batches: of one epoch and of its validation

    @property
    def ranks(self) -> int:
        """Processes of the fit; where devices=null stands for all GPUs, one on each node."""
        return (self.devices or 1) * self.num_nodes

    @property
    def device(self) -> torch.device:
        """The device on which a single process learns, prunes and replays. Raises UserError where there is no such GPU."""
        import torch

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
    patience: Count | None  # stop after this many epochs without a better validation; null: never

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


LOGGER_NODES = {  # nodes of the loggers that older runs chose by name alone
    "wandb": {"_target_": "lightning.pytorch.loggers.WandbLogger"},
    "csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "csv"},
    "tensorboard": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": "tensorboard", "version": ""},
}


class Logger(OpenSection):
    """Options of the loggers, which are added as named `_target_` nodes."""

    name: Literal["wandb", "csv", "tensorboard"] | None = None  # of a run of an older version: its only logger
    project: Text
    mode: Literal["auto", "online", "offline"]  # auto: online when an API key is set
    group: Text | None
    tags: list[Text]
    # With defaults: the saved configuration of an older run has neither.
    entity: Text | None = None
    upload: list[Literal["pool", "adaptation", "bundle"]] = ["adaptation", "bundle"]

    @property
    def nodes(self) -> dict[str, Any]:
        """Name -> `_target_` node of each logger."""
        return {**({} if self.name is None else {self.name: LOGGER_NODES[self.name]}), **self.added}


Format = Literal["bundle", "hf", "onnx"]


class Export(Section):
    """The bundle, and what is written next to it; options that older runs lack have the values that they had."""

    name: Name
    values: Literal["fp32", "fp16", "bf16", "int8", "int4"]  # of the pruned matrices
    mask: Literal["auto", "bitmask", "delta", "none"] = "bitmask"
    group: Count | None = None  # columns that share a scale of int8 and int4; null: whole rows
    compensate: bool = False  # quantise on calibration data
    compression: Literal["none", "zstd"] = "none"
    # The bundle is always written.
    format: Annotated[
        list[Format], BeforeValidator(listed, json_schema_input_type=Format | list[Format]), Affects("nothing")
    ] = ["bundle"]


class Evaluation(Section):
    targets: Annotated[
        list[FractionOrZero], Field(min_length=1)
    ]  # quantiles of the pool's returns to try as return-to-go
    sample: Annotated[bool, Affects("evaluation")]  # sample actions instead of the greedy choice
    sample_seed: Annotated[int, Field(ge=0, le=2**63 - 1), NUMBER, Affects("evaluation")] = 0
    plots: Annotated[bool, Affects("nothing")]
    # Also compute what no policy can exceed, once for each set of test episodes.
    bounds: Annotated[bool, Affects("nothing")]
    # Also leave the bundle's decisions as logs, in the folder `decisions` of each task's results.
    log: Annotated[bool, Affects("nothing")] = False
    # Also play the validation episodes with the sparse model: what a search optimises.
    validation: Annotated[bool, Affects("nothing")]


Milliseconds = Annotated[float, Field(ge=0, le=60_000), NUMBER]
Policies = Annotated[list[Text], Field(min_length=1), BeforeValidator(listed, json_schema_input_type=Text | list[Text])]
Delays = Annotated[
    list[Milliseconds],
    Field(min_length=1),
    BeforeValidator(listed, json_schema_input_type=Milliseconds | list[Milliseconds]),
]


class Replay(Section):
    """How test episodes are played; all but the name belongs to the player, and a simulator's section has none of it."""

    name: Annotated[Literal["simulator", "player"], Affects("nothing")] = "simulator"
    traces: Annotated[Count | None, Affects("evaluation")] = 5
    policies: Annotated[Policies, Affects("evaluation")] = ["sparse", "bba", "robustmpc"]
    cloud_ms: Annotated[Delays, Affects("evaluation")] = [0]
    speed: Annotated[float, Field(gt=0, le=16), NUMBER, Affects("evaluation")] = 1  # 16 is the most that Chromium plays
    sessions: Annotated[Processes, Affects("nothing")] = 1
    browser: Annotated[PathOrName | None, Affects("nothing")] = None
    port: Annotated[int, Field(ge=0, le=65535), NUMBER, Affects("nothing")] = 0
    show: Annotated[bool, Affects("nothing")] = False


class InjectedFaults(Section):
    """Faults on purpose, in a fraction of decisions."""

    kind: Literal["raised", "not_finite", "slow", "observation"]
    rate: FractionOrZero  # of decisions
    seed: Seed = 0
    slow_ms: Annotated[float, Field(ge=0, lt=1e6), NUMBER] = 100.0  # that a slow decision takes longer


class Edge(Section):
    """The agent's net below the model; with any of it set, the bundle also plays as the agent lets it: the row `guarded`."""

    deadline_ms: Annotated[float, Field(gt=0, lt=1e7), NUMBER] | None = (
        None  # after which the fall-back decides; null: never
    )
    guard: bool = False  # the fall-back also decides on observations outside of the training data
    fallback: Text | None = None  # bba, robustmpc; of cjs: fair, tuned; null: the first of them
    faults: InjectedFaults | None = None  # on purpose, to see what they cost

    @property
    def is_set(self) -> bool:
        return self != Edge()

    def safety(self, names: Collection[str]) -> Safety:
        """The same for a task with fall-back policies of these `names`; one of another task is left to that."""
        from edgenetllm.edge.agent.faults import Faults
        from edgenetllm.edge.agent.guarded import Safety

        faults = None if self.faults is None else Faults(**self.faults.model_dump())
        return Safety(self.deadline_ms, self.guard, self.fallback if self.fallback in names else None, faults)


Trained = Literal["encoder", "head", "norms", "biases"]


class Specialisation(Section):
    """Options of specialise.py, which learns a domain or a task on the sparse backbone of a bundle."""

    name: Name
    episodes: Count = 20  # that are collected, shared out by experience.shares
    steps: Count = 100  # of the optimizer, at most
    batch_size: Count = 8  # sequences
    lr: LearningRate = 2e-3
    # encoder: all that makes tokens of a step; norms and biases: of the backbone
    train: Annotated[
        list[Trained],
        BeforeValidator(listed, json_schema_input_type=Trained | list[Trained]),
        Field(min_length=1),
    ] = ["encoder", "head"]
    validate_every: Count = 20  # steps
    val_fraction: Fraction = 1.0  # of the validation episodes, played at each validation
    patience: Count | None = 3  # stop after this many validations without a better one; null: never
    scratch: bool = False  # begin with a new encoder and head, as for another task or another number of bitrates
    control: bool = False  # also learn the same on a zeroed backbone, on a copy
    # A finished run of train.py on the new domain, to compare with: its bundle is replayed too.
    cloud: ExistingFolder | None = None
    old_domain: bool = True  # also replay the domain that the bundle was adapted to
    module: Node = {"_target_": "edgenetllm.specialisation.module.SpecialisationModule"}


class Launcher(Section):
    """The way in which the jobs of a sweep are launched."""

    name: Text = "basic"
    jobs: Processes = 1  # at the same time
    per_machine: Processes = 1  # of them on one machine, whose cores they share
    gpus: Annotated[int, Field(ge=0, le=10_000), NUMBER] = (
        0  # of this machine, given to its jobs in turn; 0: left to the launcher
    )
    batches: bool = False  # give the launcher `jobs` jobs at a time: it would start all at once


class Settings(Section):
    """All options that are plain values."""

    experience: Experience
    budget: Budget
    trainer: Training
    callbacks: Callbacks
    export: Annotated[Export, Affects("pruning")]
    evaluation: Evaluation
    edge: Annotated[Edge, Affects("evaluation")] = Edge()
    logger: Annotated[Logger, Affects("nothing")]
    # With defaults: the saved configuration of an older run has none of them.
    module: Module = Module(name="older")  # AdamW with trainer.weight_decay, WarmupCosine with trainer.warmup_steps
    replay: Replay = Replay()
    launcher: Annotated[Launcher, OfCommand()] = Launcher()
    specialise: Annotated[Specialisation | None, OfCommand(stage="pruning")] = None  # None in all other stages
    trust: Annotated[list[PackageName], OfCommand()] = []  # packages whose classes run= and resume= may build
    paths: Annotated[Paths, OfCommand()]
    # Fraction of zeros in the backbone's matrices; 1 only with pruning=zero.
    sparsity: Annotated[FractionOrZero, Affects("pruning")]
    seed: Seed
    run: Annotated[ExistingFolder | None, OfCommand()]  # the run to prune or evaluate
    verify: Annotated[bool, OfCommand()] = False  # evaluate.py: replay `run` and compare it with its record
    resume: Annotated[bool | ExistingFolder, OfCommand()]  # true, or the folder of an interrupted run
    dry_run: Annotated[bool, OfCommand()]
