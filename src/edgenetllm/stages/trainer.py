"""The Trainer of an adaptation: its callbacks, and the arguments that were typed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.launched import launched
from edgenetllm.models.checkpoint import BestCheckpoint, LastCheckpoint, WholeCheckpoints
from edgenetllm.models.sharding import DataParallel, ShardedBase
from edgenetllm.models.signals import OwnSignals
from edgenetllm.nodes import build, factory
from edgenetllm.section_checks import CALLBACK_ARGUMENTS
from edgenetllm.stages.trial import trial_callbacks
from edgenetllm.trainer_options import fitting_limits


def build_trainer(
    config: Config, folder: Path, loggers: list[Logger] | None, at_end: Sequence[Callback] = ()
) -> L.Trainer:
    """The Trainer of the fit in `folder`; `loggers` are None on every rank but the first, `at_end` are more callbacks.

    Raises UserError for an argument or a callback that Lightning does not take.
    """
    config.compute.check_devices()
    strategies: dict[str, Strategy | str] = {"auto": "auto", "ddp": DataParallel(), "fsdp": ShardedBase()}
    return _build(
        config,
        # Also inside a Slurm job the ranks are ours, unless srun started them: then they have the environment of torchrun.
        TorchElasticEnvironment() if launched() else LightningEnvironment(),
        accelerator=config.trainer.accelerator,
        devices=config.compute.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=strategies[config.trainer.strategy],
        precision="bf16-mixed" if config.compute.bf16 else "32-true",
        callbacks=[*build_callbacks(config, folder, loggers is not None), *at_end],
        # Callbacks that log, such as LearningRateMonitor, want a logger on every rank.
        logger=[DummyLogger()] if loggers is None else loggers,
        default_root_dir=folder,
    )


def check_trainer(config: Config) -> None:
    """Build the Trainer with the callbacks, on the CPU, and drop it: before anything expensive, whatever the machine.

    Raises UserError like `build_trainer`, and for a batch that cannot be cut into as many parts as there are GPUs.
    """
    if config.trainer.batch_size < (parts := config.compute.ranks * config.trainer.accumulate):
        raise UserError(
            f"trainer.batch_size={config.trainer.batch_size}: it is that of all devices together and cannot be cut into "
            f"{config.compute.ranks} devices x trainer.accumulate = {parts} parts"
        )
    # Trainer and callbacks.
    with TemporaryDirectory() as folder:
        _build(
            config,
            LightningEnvironment(),
            accelerator="cpu",
            devices=1,
            callbacks=build_callbacks(config, Path(folder), is_first_rank=False),
            logger=[DummyLogger()],
            default_root_dir=folder,
        )
    # Optimizer and scheduler, on a parameter of each group.
    made = learning(config)
    if len(made) == 2:
        groups = [
            {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr}
            for lr in (config.trainer.adapter_lr, config.trainer.task_lr)
        ]
        if isinstance(made["scheduler"](made["optimizer"](groups)), ReduceLROnPlateau):
            raise UserError(
                "module.scheduler._target_: ReduceLROnPlateau waits for a metric, and a schedule is stepped after every "
                "optimisation step: choose another one, or type callbacks.patience=..."
            )


def build_callbacks(config: Config, folder: Path, is_first_rank: bool) -> list[Callback]:
    """The callbacks of the fit that the group `callbacks` names, but for those that prune and export."""
    higher, monitored = config.objective.metric.higher_is_better, config.objective.monitored
    filled: dict[str, Any] = {
        "folder": folder / "checkpoints",
        "monitor": monitored,
        "mode": "max" if higher else "min",
    }
    kinds = {
        "best": BestCheckpoint,
        "last": LastCheckpoint,
        "progress_bar": ProgressBar,
        "early_stopping": EarlyStopping,
    }
    nodes = config.callbacks.nodes
    own = {name: build_own(config, name, base, **filled) for name, base in kinds.items() if name in nodes}
    callbacks: list[Callback] = list(own.values())
    callbacks.insert(2, OwnSignals())
    for name, node in config.callbacks.added.items():
        callbacks.append(build(f"callbacks.{name}", node, Callback))
    if is_first_rank:
        callbacks += trial_callbacks(folder, monitored, config.trust, alone=bool(config.settings.get("resume")))
    return callbacks


def build_own(config: Config, name: str, base: type, **filled: Any) -> Any:
    """One of the callbacks that every run has, from its node and those of the `filled` arguments that it takes.

    What the node says goes before what the run would say. Raises UserError where it cannot be built or is no `base`.
    """
    node = config.callbacks.nodes[name]
    filled |= {"patience": config.callbacks.patience}
    given = {key: value for key, value in filled.items() if key in CALLBACK_ARGUMENTS[name] and key not in node}
    return build(f"callbacks.{name}", node, base, **given)


def learning(config: Config) -> dict[str, Callable[..., Any]]:
    """The factories of the optimizer and the scheduler of a fit; empty in the configuration of an older run."""
    steps = config.budget.epochs * config.budget.batches_per_epoch
    kinds: dict[str, tuple[dict[str, Any], type]] = {
        "optimizer": (config.module.optimizer, Optimizer),
        "scheduler": (config.module.scheduler, LRScheduler),
    }
    return {
        name: factory(f"module.{name}", node, base, total_steps=steps) for name, (node, base) in kinds.items() if node
    }


def _build(config: Config, environment: ClusterEnvironment, **surroundings: Any) -> L.Trainer:
    """The Trainer, in which typed arguments replace the defaults; `trainer_options.REFUSED` says which ones cannot."""
    defaults = {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10}
    trainer: L.Trainer = build(
        "trainer",
        {**defaults, **config.trainer.added, "_target_": config.trainer.target},
        L.Trainer,
        **fitting_limits(config.trainer, config.budget),
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.trainer.gradient_clip,
        enable_progress_bar=config.callbacks.progress,
        use_distributed_sampler=False,  # SeededBatches shares the batches out
        plugins=[environment, WholeCheckpoints()],
        **surroundings,
    )
    return trainer
