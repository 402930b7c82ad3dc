"""One-shot pruning as a Lightning callback: after the fit, from the best checkpoint, once."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.adapters import merge
from edgenetllm.models.module import AdaptationModule, check_checkpoint
from edgenetllm.pruning.oneshot import LayerReport, prune_policy
from edgenetllm.pruning.options import Pruning


class OneShotPruning(Callback):
    """When the fit ends: take the checkpoint that validation chose, merge the adapter, calibrate, prune.

    Afterwards the module holds the sparse float32 policy and `report` a row per layer. `text` (sequences, tokens, width) is
    what to calibrate on instead of the pool.
    """

    def __init__(self, pruning: Pruning, sparsity: float, seed: int = 0, text: Tensor | None = None) -> None:
        self.pruning = pruning
        self.sparsity = sparsity
        self.seed = seed
        self.text = text
        self.report: list[LayerReport] = []

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, AdaptationModule)
        checkpoint_callback = trainer.checkpoint_callback
        assert isinstance(checkpoint_callback, ModelCheckpoint)
        load_adaptation(pl_module, checkpoint_callback.best_model_path)
        pl_module.eval()  # no dropout in calibration
        if self.pruning.lora == "merge_then_prune":
            merge(pl_module.policy.decoder)
        pl_module.policy.float()
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, PoolDataModule)
        batches = datamodule.calibration_batches(self.pruning.windows)
        self.report = prune_policy(
            pl_module.policy, self.pruning, self.sparsity, batches, text=self.text, seed=self.seed
        )


def load_adaptation(module: AdaptationModule, path: str) -> None:
    """Load the trained tensors of a checkpoint into a module with its adapters attached. Raises UserError on a misfit."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    check_checkpoint(checkpoint, module.trained(), module.backbone)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
