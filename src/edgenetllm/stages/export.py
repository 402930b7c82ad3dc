"""From the pruned policy in memory to the bundle in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenetllm.config import Config
from edgenetllm.edge.engine import export_policy
from edgenetllm.models.policy import DecisionPolicy
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import Adaptation

BUNDLE = Path("bundle")


def export(config: Config, run: Run, adaptation: Adaptation, sparse: DecisionPolicy) -> dict[str, Any]:
    """Write the bundle of a run and return its sizes."""
    return export_policy(
        sparse,
        config.task,
        run.folder / BUNDLE,
        values=config.export.values,
        target_return=adaptation.target_return,
        parent=adaptation.facts,
    )
