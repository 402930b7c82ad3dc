"""The export as a Lightning callback: when `fit` ends and the module has been pruned, its bundle is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from edgenetllm.edge.bundle import MANIFEST
from edgenetllm.edge.calibrate_guard import calibrate_guards
from edgenetllm.edge.compensate import quantise_policy
from edgenetllm.edge.compression import Compression
from edgenetllm.edge.encoding import MaskForm, Values
from edgenetllm.edge.export import export_policy, policy_name
from edgenetllm.edge.quantise import LARGEST
from edgenetllm.errors import UserError
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.adapters import Lora
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.printable import say
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.oneshot import LayerReport


class ExportBundle(Callback):
    """Writes the bundle of an AdaptationModule to `folder` when `fit` ends, after the OneShotPruning before it in the list.

    `values`, `mask`, `group` and `compression` are those of `edge.bundle_writer.write_bundle`; with `compensate`, int8 and
    int4 are quantised on the calibration data of the pruning. `target_returns`, by task, are those that the bundle plays
    with, else those that validation played with. With `lora=prune_base_keep_adapter` the `adapter` stays in the bundle.
    `parent` is kept in the manifest: what should be known of the dense model. `sizes` then holds bytes and bits per weight.

    Raises UserError before the fit begins for another kind of module, without exactly one OneShotPruning or with one that
    comes later, and for a folder that exists and is no bundle (an older bundle is replaced).
    """

    def __init__(
        self,
        folder: Path | str,
        values: Values = "int8",
        mask: MaskForm | Literal["auto"] = "auto",
        *,
        group: int | None = None,
        compensate: bool = False,
        compression: Compression = "none",
        target_returns: Mapping[str, float] | None = None,
        adapter: Lora | None = None,
        parent: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.target_returns = Path(folder), target_returns
        self.values, self.mask, self.group, self.compression = values, mask, group, compression
        self.compensate = compensate and values in LARGEST
        self.adapter, self.parent = adapter, dict(parent or {})
        self.sizes: dict[str, Any] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises UserError for whatever would go wrong after the fit."""
        if not isinstance(pl_module, AdaptationModule):
            raise UserError(
                f"ExportBundle writes the bundle of an AdaptationModule, not of a {type(pl_module).__name__}"
            )
        keeps = self._pruning(trainer).pruning.lora == "prune_base_keep_adapter"
        if keeps != (self.adapter is not None):
            raise UserError(
                "ExportBundle(adapter=Lora(...)) belongs to OneShotPruning(lora='prune_base_keep_adapter'), and to no other"
            )
        if self.folder.exists() and not (self.folder / MANIFEST).is_file():
            raise UserError(f"ExportBundle(folder={str(self.folder)!r}): that exists and is no bundle")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, AdaptationModule)
        self.parent = {"backbone": dict(pl_module.backbone), "epochs": trainer.current_epoch, **self.parent}
        pruning = self._pruning(trainer)
        batches = pruning.calibration_batches(trainer, pl_module) if self.compensate else ()
        device = trainer.strategy.root_device
        pools = module.pools if isinstance(module := getattr(trainer, "datamodule", None), PoolDataModule) else {}
        fallbacks = {name: task.fallbacks() for name, task in pl_module.tasks.items()}
        guards = calibrate_guards(pl_module.policy, pools)
        self.write(pl_module.policy, pruning.report, pl_module.target_returns, batches, device, fallbacks, guards)
        say(f"bundle: {self.folder}")

    def write(
        self,
        policy: PolicyNetwork,
        report: Sequence[LayerReport],
        target_returns: Mapping[str, float],
        batches: Sequence[Any] = (),
        device: torch.device | None = None,
        fallbacks: Mapping[str, Mapping[str, dict[str, Any]]] = MappingProxyType({}),
        guards: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Write the bundle of a pruned policy, without a Trainer, and return its `sizes`.

        The matrices of the `report` are stored sparse; `target_returns`, by task, count where the callback has none.
        `batches`, which `compensate` needs, are what the policy's `calibration_step` takes; with a `device`, one block at a
        time is computed there. `fallbacks` and `guards` are those of `export_policy`.
        """
        options: dict[str, Any] = {"values": self.values, "mask": self.mask, "group": self.group}
        names = [row.name for row in report]
        quantised = quantise_policy(policy, batches, names, device=device, **options) if self.compensate else {}
        self.sizes = export_policy(
            policy,
            self.folder,
            matrices=[policy_name(name) for name in names],
            adapter=self.adapter,
            target_returns=target_returns if self.target_returns is None else self.target_returns,
            parent=self.parent,
            compress=self.compression,
            quantised={policy_name(name): matrix for name, matrix in quantised.items()},
            fallbacks=fallbacks,
            guards=guards,
            **options,
        )
        return self.sizes

    def _pruning(self, trainer: L.Trainer) -> OneShotPruning:
        callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
        prunings = [one for one in callbacks if isinstance(one, OneShotPruning)]
        if len(prunings) != 1 or callbacks.index(prunings[0]) > callbacks.index(self):
            raise UserError(
                f"ExportBundle needs one OneShotPruning before it, as in Trainer(callbacks=[OneShotPruning(...), "
                f"ExportBundle(...)]); the list has {[type(one).__name__ for one in callbacks]}"
            )
        return prunings[0]
