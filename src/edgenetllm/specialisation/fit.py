"""The fit of a specialisation: a Trainer that stops early on the new domain's validation episodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from edgenetllm.config import Config
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.progress import FitProgress
from edgenetllm.models.signals import OwnSignals
from edgenetllm.nodes import build
from edgenetllm.pruning.recovery.recover import peak_memory
from edgenetllm.sections import Specialisation
from edgenetllm.specialisation.activations import KnownStates, hidden_states, is_exact
from edgenetllm.specialisation.parameters import frozen_hash
from edgenetllm.stages.pool import Pools
from edgenetllm.stages.validation import median_candidates
from edgenetllm.tracking.loggers import Loggers


@dataclass(frozen=True)
class Fitted:
    """The result of a fit and its costs. `validation` is the objective at first (before any step) and the best one."""

    trained_parameters: int
    steps: int  # that were taken
    best_step: int  # whose weights are kept; 0: those that it began with
    validation: tuple[float, float]
    cached_activations: bool
    seconds: float
    peak_memory_mb: int


class KeepBest(Callback):
    """Keeps the trained tensors of the best validation in memory, and stops after `patience` worse ones.

    The first validation, before any step, counts too: what validation does not improve stays as it was.
    """

    def __init__(self, monitor: str, higher: bool, patience: int | None) -> None:
        self.monitor, self.sign, self.patience = monitor, 1 if higher else -1, patience
        self.history: list[tuple[int, float]] = []  # step, figure
        self.best: tuple[int, float] | None = None
        self.state: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        self.history.append((trainer.global_step, value))
        if self.best is None or self.sign * value > self.sign * self.best[1]:
            self.best = (trainer.global_step, value)
            trained = ((name, one) for name, one in pl_module.named_parameters() if one.requires_grad)
            self.state = {name: one.detach().cpu().clone() for name, one in trained}
        worse = sum(step > self.best[0] for step, _ in self.history)
        if self.patience is not None and worse >= self.patience:
            trainer.should_stop = True

    def restore(self, module: L.LightningModule) -> None:
        """Give the module the tensors of the best validation."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in self.state:
                    parameter.copy_(self.state[name])


def fit(config: Config, policy: PolicyNetwork, pools: Pools, loggers: Loggers | None, trained: Sequence[str]) -> Fitted:
    """Train the parameters named `trained`, in place, until the steps are done or validation does not get better.

    Ends on the CPU. Raises RuntimeError where anything else has changed.
    """
    options = config.specialise
    assert options is not None
    before = frozen_hash(policy, trained)
    began = time.perf_counter()
    with peak_memory(on_gpu=config.trainer.accelerator == "gpu") as peak:
        # The data, with the hidden states of the backbone where these stay the same.
        policy.to(config.trainer.device)
        known, pooled = is_exact(options.train), build_data(config, options, pools)
        states = hidden_states(policy, pooled, config.compute.bf16) if known else {}
        data = KnownStates(pooled, states) if known else pooled
        # The fit, which begins with a validation.
        module = build_module(config, options, policy, pools)
        keeper = KeepBest(config.objective.monitored, config.objective.metric.higher_is_better, options.patience)
        trainer = build_trainer(config, options, keeper, loggers)
        trainer.fit(module, datamodule=data)
        keeper.restore(module)
    policy.requires_grad_(False).cpu().eval()
    if frozen_hash(policy, trained) != before:
        raise RuntimeError("specialisation changed a tensor that must stay as it is: a bug")
    assert keeper.best is not None
    sizes = {name: one.numel() for name, one in policy.named_parameters()}
    return Fitted(
        trained_parameters=sum(sizes[name] for name in trained),
        steps=trainer.global_step,
        best_step=keeper.best[0],
        validation=(keeper.history[0][1], keeper.best[1]),
        cached_activations=known,
        seconds=time.perf_counter() - began,
        peak_memory_mb=round(peak[0] / 1e6),
    )


def build_data(config: Config, options: Specialisation, pools: Pools) -> PoolDataModule:
    """The batches of the fit; an epoch ends with a validation."""
    return PoolDataModule(
        config.task_objects,
        pools,
        batch_size=options.batch_size,
        batches_per_epoch=options.validate_every,
        seed=config.seed,
        val_fraction=options.val_fraction,
        task_weights=config.task_weights,
    )


def build_module(config: Config, options: Specialisation, policy: PolicyNetwork, pools: Pools) -> AdaptationModule:
    """The LightningModule of the fit, `specialise.module`."""
    module: AdaptationModule = build(
        "specialise.module",
        options.module,
        AdaptationModule,
        policy=policy,
        tasks=config.task_objects,
        backbone={},
        target_returns=median_candidates(config, pools),
        task_weights=config.task_weights,
        adapter_lr=options.lr,
        task_lr=options.lr,
        weight_decay=0.0,
        warmup_steps=min(5, options.steps - 1),
        total_steps=options.steps,
    )
    return module


def build_trainer(config: Config, options: Specialisation, keeper: KeepBest, loggers: Loggers | None) -> L.Trainer:
    """The Trainer of the fit, in this process alone."""
    return L.Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        plugins=[LightningEnvironment()],  # one process, also where torchrun started others
        precision="bf16-mixed" if config.compute.bf16 else "32-true",
        max_epochs=options.steps // options.validate_every,
        num_sanity_val_steps=-1,  # the validation before the first step
        gradient_clip_val=config.trainer.gradient_clip,
        logger=loggers or False,
        callbacks=[keeper, OwnSignals(), *([FitProgress()] if config.callbacks.progress else [])],
        enable_progress_bar=config.callbacks.progress,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
