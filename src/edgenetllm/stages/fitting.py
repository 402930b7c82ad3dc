"""The fit: what every rank does, from the pretrained backbone to the checkpoint that validation chose."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.models.adapters import Full, cast_frozen_linears
from edgenetllm.models.decoder import recompute_activations
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.policy import build_policy
from edgenetllm.nodes import build
from edgenetllm.stages.pool import Pools, make_datamodule
from edgenetllm.stages.trainer import build_trainer, learning
from edgenetllm.stages.validation import median_candidates

RESTORING = "checkpoint_connector.py"  # of Lightning, which restores the state of a Trainer


def build_module(config: Config, target_returns: dict[str, float], in_bf16: bool) -> AdaptationModule:
    """The pretrained backbone with fresh adapters, encoders and heads; `in_bf16` rounds its frozen matrices to bfloat16."""
    # The backbone with adapters, its frozen matrices perhaps in bfloat16.
    L.seed_everything(config.seed, verbose=False)
    rounded = in_bf16 and not isinstance(config.adapter, Full)
    backbone = config.model.load(torch.bfloat16 if rounded else torch.float32)
    config.adapter.attach(backbone.decoder, config.seed)
    if in_bf16:
        cast_frozen_linears(backbone.decoder, torch.bfloat16)
    if config.trainer.gradient_checkpointing:
        recompute_activations(backbone.decoder)
    # Encoders and heads of the tasks around it, and the LightningModule.
    policy = build_policy(backbone.decoder, config.task_objects, backbone.embedding_rms)
    module: AdaptationModule = build(
        "module",
        {"_target_": config.module.target, **config.module.added},
        AdaptationModule,
        policy=policy,
        tasks=config.task_objects,
        backbone=backbone.identity,
        target_returns=target_returns,
        task_weights=config.task_weights,
        adapter_lr=config.trainer.adapter_lr,
        task_lr=config.trainer.task_lr,
        weight_decay=config.trainer.weight_decay,
        warmup_steps=config.trainer.warmup_steps,
        total_steps=config.budget.epochs * config.budget.batches_per_epoch,
        **learning(config),
    )
    return module


def fit(
    config: Config,
    folder: Path,
    pools: Pools,
    loggers: list[Logger] | None,
    wait_for_ranks: Callable[[], object],
    at_end: Sequence[Callback] = (),
) -> tuple[AdaptationModule, dict[str, Any]]:
    """Learn, or go on from the last checkpoint in `folder`, on every rank; also returns facts for `adaptation.json`.

    `loggers` are None on every rank but the first; `wait_for_ranks` is called before the ranks join: see `spawn_ranks`.
    The callbacks `at_end` come after all others. Raises UserError where the fit ended without a validation, on which the
    checkpoint is chosen.
    """
    module = build_module(config, median_candidates(config, pools), config.compute.bf16)
    trainer = build_trainer(config, folder, loggers, [_Validated(folder), *at_end])
    wait_for_ranks()
    last = folder / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(
            module,
            datamodule=make_datamodule(config, pools),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    except Exception as error:
        if isinstance(error, UserError | OSError) or not _is_of_restoring(error):
            raise
        reason = f"{type(error).__name__}: {error!s:.200}"
        raise UserError(
            f"{last} does not fit this run ({reason}): remove its folder, or start again without resume"
        ) from error
    return module, facts_of(config, trainer, module)


def _is_of_restoring(error: BaseException) -> bool:
    """True where an error was raised while Lightning restored loops, callbacks or optimizers from a checkpoint."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(Path(one.co_filename).name == RESTORING and "restore" in one.co_name for one in codes)


def facts_of(config: Config, trainer: L.Trainer, module: AdaptationModule) -> dict[str, Any]:
    """The facts that are known of an adaptation when its fit has ended."""
    return {"backbone": module.backbone, "epochs": trainer.current_epoch, "bf16": config.compute.bf16}


class _Validated(Callback):
    """Raises UserError where the fit ended without a validation, on which the checkpoint is chosen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (self.folder / "checkpoints" / "best.ckpt").is_file():
            raise UserError(
                f"the fit ended after {trainer.global_step} steps without a validation, on which the checkpoint is "
                "chosen: type other limits for the Trainer (trainer.max_time, trainer.max_steps, "
                "trainer.check_val_every_n_epoch)"
            )
