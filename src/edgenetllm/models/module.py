"""Adaptation as a LightningModule: it learns from the pool and is validated by playing in the simulator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from edgenetllm.earlier import by_task, current_names
from edgenetllm.errors import UserError
from edgenetllm.experience.objective import Objective, logged_name
from edgenetllm.experience.rollout import play
from edgenetllm.experience.task_weights import task_fractions
from edgenetllm.models.adapters import cast_frozen_linears
from edgenetllm.models.decoder import linear_layers
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.schedule import WarmupCosine
from edgenetllm.models.session import Session
from edgenetllm.models.stored import check_unaltered, read_checkpoint, seal_checkpoint
from edgenetllm.tasks.task import Array, Encoder, Head, Observation, Task

MODULE_KEYS = ("state_dict", "backbone", "target_return", "hyper_parameters", "frozen")  # of a checkpoint
CHECKED_EVERY = 10  # steps; reading the loss makes a GPU wait
GIVEN = ("policy", "tasks", "backbone", "optimizer", "scheduler")  # objects that a checkpoint does not hold
TARGETS = ("target_return", "target_returns")  # stored apart


class AdaptationModule(L.LightningModule):
    """Logs `train/loss`, `train/lr` and `val/<metric>` of every task; of several tasks also `val/relative_gain`.

    `tasks` are those of the policy, `task_weights`, relative to each other, weight their losses (None: equal), and
    `target_returns` is the return-to-go of each task in validation. Which figure chooses the checkpoint: see Objective.

    Checkpoints hold trained tensors and plain values only; see `load_from_checkpoint`.

    `optimizer` is given the groups of parameters, each with its learning rate, and `scheduler` the optimizer; without them,
    AdamW with `weight_decay`, and WarmupCosine.
    """

    logged_loss = "train/loss"

    def __init__(
        self,
        policy: PolicyNetwork,
        tasks: Mapping[str, Task],
        *,
        backbone: dict[str, str | int],
        target_returns: Mapping[str, float],
        adapter_lr: float,
        task_lr: float,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        task_weights: dict[str, float] | None = None,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=[*GIVEN, *TARGETS], logger=False)
        self.make_optimizer = optimizer or partial(torch.optim.AdamW, weight_decay=weight_decay)
        self.make_scheduler = scheduler or partial(WarmupCosine, warmup_steps=warmup_steps, total_steps=total_steps)
        self.policy = policy
        self.tasks = dict(tasks)
        self.fractions = task_fractions(list(tasks), task_weights)
        self.objective = Objective(self.tasks)
        self.backbone = backbone
        self.target_returns = dict(target_returns)
        self.adapter_lr, self.task_lr = adapter_lr, task_lr
        self.losses: list[Tensor] = []  # of the shards of a batch that is accumulated
        self.val_metrics = torch.nn.ModuleDict(
            {
                name: torch.nn.ModuleDict({m.name: MeanMetric(sync_on_compute=False) for m in task.metrics})
                for name, task in self.tasks.items()  # every rank has them all
            }
        )

    @property
    def strict_loading(self) -> bool:  # the frozen backbone is not in a checkpoint; on_load_checkpoint checks the rest
        return False

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise AttributeError("strict_loading is fixed: only trained tensors are stored")

    @property
    def decoder(self) -> torch.nn.Module:
        """The backbone, which is what can be pruned."""
        return self.policy.decoder

    def calibration_step(self, batch: dict[str, Any]) -> Tensor:
        """Run the backbone on a batch of the pool."""
        return self.policy.calibration_step(batch)

    def calibration_mask(self, batch: dict[str, Any]) -> Tensor:
        """The tokens of such a batch that are no padding, (sequences, tokens)."""
        return self.policy.calibration_mask(batch)

    def calibration_loss(self, batch: dict[str, Any]) -> Tensor:
        """The task's loss on such a batch."""
        return self.policy.calibration_loss(batch)

    def outside(self) -> dict[str, torch.nn.Module]:
        """Encoder and head (of each task), by their names in the policy."""
        return self.policy.outside()

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The mean of the tasks' losses by their weights; `batch` holds one batch of each task, by its name."""
        losses = [
            fraction * self.policy.loss(batch[name], batch[name]["observation"], name)
            for name, fraction in self.fractions.items()
        ]
        return cast(Tensor, sum(losses))

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.detach())
        if len(self.losses) == self.trainer.accumulate_grad_batches:
            mean, size = torch.stack(self.losses).mean(), sequences_of(batch)
            self.log("train/loss", mean, prog_bar=True, batch_size=size, sync_dist=self.trainer.world_size > 1)
            self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
            self.losses.clear()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_index: int) -> None:
        """Raises UserError where the loss is not finite: training cannot recover from such weights."""
        step = self.trainer.global_step
        if step == 0 or step % CHECKED_EVERY:
            return
        loss = self.trainer.callback_metrics.get(self.logged_loss)  # None in the first shards of a resumed run
        if loss is not None and not loss.isfinite():
            raise UserError(
                f"the loss is {loss} at step {step}: lower trainer.adapter_lr or trainer.task_lr, "
                "or type trainer.precision=fp32"
            )

    def validation_step(self, seeds: Tensor, batch_index: int, dataloader_idx: int = 0) -> None:
        """Play these validation episodes; loader i is that of task i."""
        name, task = list(self.tasks.items())[dataloader_idx]
        metrics = cast(torch.nn.ModuleDict, self.val_metrics[name])
        session = _SharedSession(
            self.policy.of_task(name), self.target_returns[name], "validation", self.trainer.strategy
        )
        episodes = play(task.environment("val"), seeds.cpu().numpy(), session)
        for metric, values in task.summarise(episodes.record, episodes.reward, episodes.valid).items():
            metrics[metric].update(torch.from_numpy(values.astype(np.float32)).to(self.device))  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        shared = self.trainer.world_size > 1
        figures = {}
        for name, task in self.tasks.items():
            metrics = cast(torch.nn.ModuleDict, self.val_metrics[name])
            values = {key: metric.compute() for key, metric in metrics.items()}  # type: ignore[operator]
            figures[name] = float(values[task.metric.name])
            for key, value in values.items():
                logged, main = f"val/{logged_name(self.tasks, name, key)}", key == task.metric.name
                self.log(logged, value, prog_bar=main, sync_dist=shared)
                metrics[key].reset()  # type: ignore[operator]
        if len(self.tasks) > 1:  # else it is logged as the task's own metric
            value = torch.tensor(self.objective.value(figures), device=self.device)
            self.log(f"val/{self.objective.metric.name}", value, prog_bar=True, sync_dist=shared)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        outside = set(self.policy.task_parameters())
        named = [(name, p) for name, p in self.policy.named_parameters() if p.requires_grad]
        multipliers = lr_multipliers(self.policy)
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in named:
            lr = self.task_lr * multipliers.get(name, 1.0) if name in outside else self.adapter_lr
            groups.setdefault(lr, []).append(parameter)
        parameters = [{"params": group, "lr": lr} for lr, group in groups.items()]
        optimizer = self.make_optimizer(parameters)
        schedule = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = self.trained()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["backbone"] = dict(self.backbone)
        checkpoint["target_return"] = dict(self.target_returns)
        checkpoint["frozen"] = self.frozen()
        seal_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_unaltered(checkpoint)
        checkpoint["state_dict"] = current_names(checkpoint["state_dict"], self.tasks, "policy.")
        check_checkpoint(checkpoint, self.trained(), self.backbone)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        policy: PolicyNetwork,
        tasks: Mapping[str, Task],
        backbone: dict[str, str | int],
        weights_only: bool = True,
        **changes: Any,
    ) -> Self:
        """The module that a checkpoint was made of, on the CPU unless `map_location` names another device.

        The frozen weights are not in it: `policy` is built again, its adapters attached, around the `backbone` of this
        identity (`source.load()` gives decoder and identity), and rounded to bfloat16 where the checkpoint was made so. All
        other arguments come from the checkpoint; `changes` replace some of them. Nothing is unpickled. Raises UserError for a
        checkpoint that is damaged, altered, not finite, or of another model, backbone or version, or of other tasks.
        """
        # Read the checkpoint and check its options.
        if not weights_only:
            raise UserError(
                "load_from_checkpoint(weights_only=False): a checkpoint of an adaptation is never unpickled"
            )
        checkpoint = read_checkpoint(checkpoint_path)
        stored = checkpoint.get("hyper_parameters", {})
        targets = by_task(checkpoint.get("target_return"), tasks)
        if not isinstance(targets, Mapping) or set(targets) != set(tasks):
            raise UserError(f"{checkpoint_path}: its return-to-go {targets} is not that of {', '.join(tasks)}")
        options = {"target_returns": targets, **stored, **changes}
        _check_options(checkpoint_path, {**stored, **changes})
        # Build the module and fill in the trained weights.
        module = cls(policy, tasks, backbone=backbone, **options)
        _round_frozen(module, checkpoint.get("frozen", module.frozen()))
        _load(module, checkpoint)
        return module if map_location is None else module.to(map_location)

    def frozen(self) -> list[str]:
        """The types of the frozen matrices of the blocks, such as bfloat16."""
        layers = linear_layers(self.policy.decoder).values()
        return sorted({str(one.weight.dtype).removeprefix("torch.") for one in layers if not one.weight.requires_grad})

    def trained(self) -> dict[str, torch.Size]:
        """Name -> shape of everything that a checkpoint stores."""
        return {f"policy.{name}": p.shape for name, p in self.policy.named_parameters() if p.requires_grad}


def lr_multipliers(policy: PolicyNetwork) -> dict[str, float]:
    """Parameter name -> factor of its learning rate, of those parameters whose encoder or head lowers it."""
    owners = [(prefix, module) for prefix, module in policy.named_modules() if isinstance(module, Encoder | Head)]
    return {f"{prefix}.{name}": factor for prefix, owner in owners for name, factor in owner.lr_multipliers().items()}


class _SharedSession(Session):
    """All ranks play the same episodes with rank zero's choices, however theirs are rounded.

    A sharded backbone needs every rank for every decision, and episodes of CJS are not equally long: ranks that played
    episodes of their own would wait for each other without end. Decisions of all episodes are computed together, so that to
    divide the episodes among the ranks would save little.
    """

    def __init__(self, policy: PolicyNetwork, target_return: float, name: str, strategy: Strategy) -> None:
        super().__init__(policy, target_return, name)
        self.strategy = strategy

    def act(self, observation: Observation) -> Array:
        return self.strategy.broadcast(super().act(observation))


def sequences_of(batch: Mapping[str, Any]) -> int:
    """Number of sequences in a batch for training, of all its tasks."""
    return sum(len(of_task["valid"]) for of_task in batch.values())


def load_adaptation(module: AdaptationModule, path: str) -> None:
    """Load the trained tensors of a checkpoint into a module with its adapters attached.

    Raises UserError when it does not fit the module, and when it is damaged, altered, or not finite.
    """
    _load(module, read_checkpoint(path))


def _load(module: AdaptationModule, checkpoint: dict[str, Any]) -> None:
    state = current_names(checkpoint["state_dict"], module.tasks, "policy.")
    check_checkpoint({**checkpoint, "state_dict": state}, module.trained(), module.backbone)
    module.load_state_dict(state, strict=False)


def _round_frozen(module: AdaptationModule, types: list[str]) -> None:
    """Round the frozen matrices as those were that it was adapted with. Raises UserError where they cannot be such."""
    if types == ["bfloat16"] and module.frozen() == ["float32"]:
        cast_frozen_linears(module.policy.decoder, torch.bfloat16)
    if module.frozen() != types:
        raise UserError(
            f"the checkpoint was made with frozen matrices in {types}, those of this policy are {module.frozen()}"
        )


def _check_options(path: str | Path, options: dict[str, Any]) -> None:
    """Raises UserError unless these are the options of an AdaptationModule, without those that are objects."""
    parameters = list(inspect.signature(AdaptationModule.__init__).parameters.values())
    known = {one.name: one.default for one in parameters[1:] if one.name not in (*GIVEN, *TARGETS)}
    missing = sorted(
        name for name, default in known.items() if default is inspect.Parameter.empty and name not in options
    )
    unknown = sorted(set(options) - {*known, *GIVEN, *TARGETS})
    if missing or unknown:
        raise UserError(
            f"{path} was made by another version: it "
            + (f"does not say {', '.join(missing)}; give them" if missing else f"has {', '.join(unknown)}")
        )


def check_checkpoint(
    checkpoint: dict[str, Any], trained: dict[str, torch.Size], backbone: dict[str, str | int]
) -> None:
    """Raises UserError unless the checkpoint holds exactly the tensors that this model trains, for this backbone."""
    if checkpoint.get("backbone") != backbone:
        raise UserError(f"the checkpoint was made for backbone {checkpoint.get('backbone')}, this is {backbone}")
    stored = {(name, tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    differing = sorted({name for name, _ in stored ^ set(trained.items())})
    if differing:
        raise UserError(
            f"the checkpoint does not fit this model: {len(differing)} tensors differ, such as {differing[:3]}; "
            "task, model and adapter must be those of the adaptation"
        )
