"""One-shot pruning as a Lightning callback: when `fit` ends, the decoder of a LightningModule is pruned, once."""

from __future__ import annotations

import pickle
import random
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edgenetllm.errors import UserError
from edgenetllm.models.adapters import has_adapters, merge
from edgenetllm.models.decoder import block_zeros
from edgenetllm.printable import say
from edgenetllm.pruning.method import Method
from edgenetllm.pruning.oneshot import LayerReport, Prunable, check_prunable, decoder_of, prune_module
from edgenetllm.pruning.options import Pruning


class OneShotPruning(Callback):
    """Prunes the decoder of a LightningModule when `fit` ends, exactly once.

    Afterwards `report` says what was done to each layer, and `seconds` how long it took.

    The module has an attribute `decoder`, a transformers decoder or a language model around one, and a method
    `calibration_step(batch)`, one forward pass (and maybe more: see `pruning.oneshot.Prunable`). At the end of `fit`, when
    every checkpoint has been written,

    1. the best checkpoint is loaded, if a ModelCheckpoint of the Trainer monitors a figure (`monitor` names it where several
       do); else the weights stay as they are. Checkpoints on disk stay dense: `trainer.save_checkpoint` writes the sparse
       module.
    2. LoRA is merged in float32 (unless `lora=prune_base_keep_adapter`); a module of several types becomes float32.
    3. the decoder is calibrated on `trainer.datamodule.calibration_batches(windows)` if there is such a method, else on the
       first batches of the train dataloader that hold `windows` sequences, drawn with `seed`.
    4. the matrices of all decoder blocks are pruned to `sparsity`, zeros exact; token embedding, norms, biases and lm_head
       stay as they are.

    `options` are those of `pruning.options.Pruning`, such as `structure="2:4"` or `windows=128`; or give a whole `pruning`
    instead of a `method`. With `calibration="text"`, `text` is (sequences, tokens, width) of embedded tokens.

    Raises UserError before the fit begins for a module that cannot be pruned so, for one that is pruned already (unless
    `force=True`), and for a Trainer of more than one process.
    """

    def __init__(
        self,
        method: Method | None = None,
        sparsity: float = 0.4,
        *,
        pruning: Pruning | None = None,
        seed: int = 0,
        progress: bool = True,
        monitor: str | None = None,
        text: Tensor | None = None,
        **options: Any,
    ) -> None:
        # Check the arguments.
        if (method is None) == (pruning is None) or (pruning is not None and options):
            raise UserError(
                "OneShotPruning takes a method with its options, such as OneShotPruning(Wanda(), 0.6, windows=128), or "
                "pruning=Pruning(...) alone"
            )
        if pruning is None and not isinstance(method, Method):
            raise UserError(f"OneShotPruning(method={method!r:.80}): give an object such as Wanda()")
        self.pruning = Pruning(method, **options) if pruning is None else pruning  # type: ignore[arg-type]
        if self.pruning.calibration == "text" and text is None:
            raise UserError("OneShotPruning(calibration='text') needs text=..., (sequences, tokens, width) embedded")
        # Options, then the results.
        self.sparsity, self.seed, self.progress, self.monitor, self.text = sparsity, seed, progress, monitor, text
        self.report: list[LayerReport] = []
        self.seconds = 0.0
        self._pruned: weakref.WeakSet[Any] = weakref.WeakSet()

    def apply(
        self, module: Prunable, batches: Sequence[Any], *, device: torch.device | None = None
    ) -> list[LayerReport]:
        """Prune a module as it is, in place, without a Trainer; returns, and keeps, the report.

        `batches` are what `calibration_step` takes. With a `device`, one decoder block at a time is computed there. Prints
        the fraction of all block weights that is zero. Raises UserError as `pruning.oneshot.prune_module` does.
        """
        self._check_once(module)
        began = time.perf_counter()
        with _evaluating(module):
            report = prune_module(
                module,
                self.pruning,
                self.sparsity,
                batches,
                text=self.text if self.pruning.calibration == "text" else None,
                seed=self.seed,
                progress=self.progress,
                device=device,
            )
        self.report, self.seconds = report, time.perf_counter() - began
        self._pruned.add(module)
        weights, zeros = block_zeros(decoder_of(module))
        say(f"pruning: {zeros:,} of {weights:,} block weights are zero ({zeros / weights:.2%})")
        return report

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises UserError for whatever would go wrong after the fit."""
        if trainer.world_size > 1:
            raise UserError(
                f"OneShotPruning prunes in one process, and this Trainer has {trainer.world_size}: fit without it, then call "
                "OneShotPruning(...).apply(module, batches) in a single process"
            )
        self._monitored(trainer)
        module: Any = pl_module
        self._check_once(module)
        check_prunable(module, self.pruning, self.sparsity)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prune: all checkpoints are written by now, and the module is back on the CPU."""
        module: Any = pl_module
        self._load_best(trainer, pl_module)
        if self.pruning.lora == "merge_then_prune" and has_adapters(decoder_of(module)):
            merge(decoder_of(module))
        if len({value.dtype for value in decoder_of(module).parameters() if value.is_floating_point()}) > 1:
            pl_module.float()
        batches = [] if self.pruning.calibration == "text" else self.calibration_batches(trainer, pl_module)
        self.apply(module, batches, device=trainer.strategy.root_device)

    def calibration_batches(self, trainer: L.Trainer, pl_module: L.LightningModule) -> list[Any]:
        """The batches that `calibration_step` takes, on the module's device."""
        return [pl_module._apply_batch_transfer_handler(batch) for batch in self._calibration_batches(trainer)]

    def _check_once(self, module: Prunable) -> None:
        if module in self._pruned and not self.pruning.force:
            raise UserError("this module has been pruned by this callback already; go further with force=True")

    def _monitored(self, trainer: L.Trainer) -> ModelCheckpoint | None:
        """The callback that knows the best checkpoint, if there is one. Raises UserError where it is not clear which."""
        savers = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
        monitored: dict[str, ModelCheckpoint] = {}
        for one in savers:
            if one.monitor is not None:
                monitored.setdefault(one.monitor, one)
        if self.monitor is not None and self.monitor not in monitored:
            raise UserError(
                f"OneShotPruning(monitor={self.monitor!r}): no ModelCheckpoint of the Trainer monitors that, but "
                f"{', '.join(map(str, monitored)) or 'nothing'}"
            )
        if self.monitor is None and len(monitored) > 1:
            names = ", ".join(map(repr, monitored))
            raise UserError(
                f"the Trainer monitors {names}: say whose best checkpoint is pruned, OneShotPruning(monitor=...)"
            )
        return monitored[self.monitor] if self.monitor else next(iter(monitored.values()), None)

    def _load_best(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        best = self._monitored(trainer)
        if best is None:
            return
        if not best.best_model_path:
            say(f"pruning: no checkpoint was chosen by {best.monitor}; the last weights are pruned")
            return
        try:
            checkpoint = trainer.strategy.load_checkpoint(best.best_model_path, weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{best.best_model_path} was not loaded: it holds objects other than tensors and plain values, such as "
                f"hyperparameters that are objects (save_hyperparameters(ignore=[...])): {error}"
            ) from None
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
        say(f"pruning: the best checkpoint, {best.best_model_path}")

    def _calibration_batches(self, trainer: L.Trainer) -> Sequence[Any]:
        datamodule: Any = getattr(trainer, "datamodule", None)
        windows = self.pruning.windows
        if hasattr(datamodule, "calibration_batches"):
            batches: Sequence[Any] = datamodule.calibration_batches(windows)
            return batches
        loader: Any = trainer.train_dataloader
        size = (loader.batch_size if isinstance(loader, DataLoader) else None) or 1
        with isolate_rng():  # whatever was drawn before, a shuffled loader gives the same batches
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)  # noqa: NPY002  (what data sets draw from)
            random.seed(self.seed)
            return [batch for batch, *_ in islice(CombinedLoader(loader), -(-windows // size))]


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """While open, no dropout is drawn in the module; then each of its submodules is in the mode that it was in."""
    modules = list(module.modules()) if isinstance(module, nn.Module) else []
    training = [submodule for submodule in modules if submodule.training]
    for submodule in training:
        submodule.training = False
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True
