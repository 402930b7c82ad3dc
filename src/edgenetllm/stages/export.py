"""The way from the pruned policy in memory to the bundle in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgenetllm.config import Config
from edgenetllm.edge.calibrate_guard import calibrate_guards
from edgenetllm.edge.callback import ExportBundle
from edgenetllm.edge.compression import check_installed
from edgenetllm.edge.engine import load_whole_policy
from edgenetllm.edge.hf_export import export_hf
from edgenetllm.edge.onnx_export import ARCHITECTURES, export_onnx, require_onnx
from edgenetllm.edge.quantise import LARGEST
from edgenetllm.errors import UserError
from edgenetllm.models.adapters import Lora
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.pruning.oneshot import LayerReport
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import Adaptation
from edgenetllm.stages.pool import Pools, make_datamodule
from edgenetllm.stages.shipping import shipping
from edgenetllm.stages.trainer import build_own

BUNDLE = Path("bundle")


def check_export(config: Config) -> None:
    """Raises UserError for what `export` could not write, before anything expensive."""
    check_installed(config.export.compression)
    if config.export.group is not None and config.export.values not in LARGEST:
        raise UserError(f"export.group={config.export.group} belongs to export.values=int8 or int4")
    apart = isinstance(config.adapter, Lora) and config.pruning.lora == "prune_base_keep_adapter"
    others = [name for name in config.export.format if name != "bundle"]
    if others and apart:
        raise UserError(f"export.format={others[0]} needs a merged adapter: type pruning.lora=merge_then_prune")
    if "onnx" in others:
        require_onnx()
        if (kind := config.model.architecture().get("model_type")) not in ARCHITECTURES:
            raise UserError(f"export.format=onnx: {kind} is not exported (only {', '.join(ARCHITECTURES)} are)")


def export(
    config: Config, run: Run, adaptation: Adaptation, sparse: PolicyNetwork, report: list[LayerReport], pools: Pools
) -> dict[str, Any]:
    """Write the bundle of a run, and what else `export.format` names; returns the bundle's sizes.

    The matrices of `report` are its sparse part.
    """
    # The bundle.
    adapter, options = config.adapter if isinstance(config.adapter, Lora) else None, config.export
    callback: ExportBundle = build_own(
        config,
        "export",
        ExportBundle,
        folder=run.folder / BUNDLE,
        values=options.values,
        mask=options.mask,
        group=options.group,
        compensate=options.compensate,
        compression=options.compression,
        target_returns=adaptation.target_returns,
        adapter=adapter if config.pruning.lora == "prune_base_keep_adapter" else None,
        parent={key: value for key, value in adaptation.facts.items() if key not in ("identity", "expert", "improved")},
    )
    batches: Sequence[Any] = ()
    if callback.compensate:
        batches = make_datamodule(config, pools).calibration_batches(config.pruning.windows)
    # What an agent decides with where the model does not.
    guards = calibrate_guards(sparse, pools)
    fallbacks = {name: task.fallbacks() for name, task in config.task_objects.items()}
    sizes = callback.write(sparse, report, adaptation.target_returns, batches, config.trainer.device, fallbacks, guards)
    # The numbers that it stands for, for other tools.
    if "hf" in options.format:
        export_hf(run.folder / BUNDLE, run.folder / "hf")
    if "onnx" in options.format:
        export_onnx(load_whole_policy(run.folder / BUNDLE, config.task_objects), run.folder / "onnx")
    return {**sizes, "shipping": shipping(sizes, config.paths.data_dir)}
