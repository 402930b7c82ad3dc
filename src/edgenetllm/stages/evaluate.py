"""`evaluate.py`: the bundle of a run over other traces, beside its dense parent and the baselines."""

from __future__ import annotations

from typing import Any

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.reporting.results import Results
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import restore
from edgenetllm.stages.assess import assess
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.prepare import announce


def evaluate(config: Config, run: Run) -> float | None:
    """Returns the test metric of the sparse model."""
    announce(config)
    if config.run is None or not (config.run / BUNDLE / "manifest.json").is_file():
        raise UserError(f"run={config.run}: no bundle in this folder; name a finished train or prune run")
    if config.dry_run:
        print(f"would replay {len(config.task.seeds('test'))} test episodes with {config.run}/bundle")
        return None
    adaptation = restore(config, config.run)
    with tracked(config, run) as logger:
        print(f"run: {run.folder}", flush=True)
        sizes: dict[str, Any] = dict(Results.load(config.run / "results.json").bundle or {})
        return assess(config, run, adaptation, config.run / BUNDLE, logger, {}, None, sizes)
