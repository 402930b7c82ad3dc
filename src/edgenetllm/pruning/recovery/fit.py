"""Learn some parameters of a sparse policy from the pool, with the loss of adaptation."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from edgenetllm.models.module import AdaptationModule, sequences_of
from edgenetllm.models.policy import Policy
from edgenetllm.models.progress import progress_bar
from edgenetllm.pruning.recovery.recover import Ground


class _Recovery(AdaptationModule):
    """Logs `recovery/loss`."""

    logged_loss = "recovery/loss"

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("recovery/loss", loss, prog_bar=True, batch_size=sequences_of(batch))
        return loss


def fit(policy: Policy, ground: Ground, *, steps: int, batch_size: int, decoder_lr: float, task_lr: float) -> int:
    """Train whatever requires a gradient, in place; returns how many parameters that were. Ends on the policy's device."""
    trained = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    device = policy.device
    module = _Recovery(
        policy.train(),
        ground.task,  # type: ignore[arg-type]  # it plays nothing
        backbone={},
        target_return=0.0,
        adapter_lr=decoder_lr,
        task_lr=task_lr,
        weight_decay=0.0,
        warmup_steps=min(5, steps - 1),
        total_steps=steps,
    )
    trainer = L.Trainer(
        accelerator=ground.accelerator,
        devices=1,
        plugins=[LightningEnvironment()],  # one process, also where torchrun started others
        precision="bf16-mixed" if ground.bf16 else "32-true",
        max_steps=steps,
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=ground.loggers,
        callbacks=[progress_bar()] if ground.progress else [],
        enable_progress_bar=ground.progress,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=5,
        limit_val_batches=0,
    )
    trainer.fit(module, train_dataloaders=ground.data(batch_size, steps).train_dataloader())
    policy.to(device).eval()
    return trained
