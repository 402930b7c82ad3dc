"""The way from the pruned policy in memory to the bundle in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenetllm.config import Config
from edgenetllm.edge.callback import ExportBundle
from edgenetllm.models.adapters import Lora
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.pruning.oneshot import LayerReport
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import Adaptation
from edgenetllm.stages.trainer import build_own

BUNDLE = Path("bundle")


def export(
    config: Config, run: Run, adaptation: Adaptation, sparse: PolicyNetwork, report: list[LayerReport]
) -> dict[str, Any]:
    """Write the bundle of a run and return its sizes. The matrices of `report` are its sparse part."""
    adapter = config.adapter if isinstance(config.adapter, Lora) else None
    callback: ExportBundle = build_own(
        config,
        "export",
        ExportBundle,
        folder=run.folder / BUNDLE,
        values=config.export.values,
        target_returns=adaptation.target_returns,
        adapter=adapter if config.pruning.lora == "prune_base_keep_adapter" else None,
        parent={key: value for key, value in adaptation.facts.items() if key not in ("identity", "expert", "improved")},
    )
    return callback.write(sparse, report, adaptation.target_returns)
