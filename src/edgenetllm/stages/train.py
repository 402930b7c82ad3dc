"""`train.py`: pool, adaptation, one-shot pruning, bundle, replay."""

from __future__ import annotations

import time

from edgenetllm.config import Config
from edgenetllm.edge.engine import export_policy
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import adapt, collect_pool
from edgenetllm.stages.assess import assess
from edgenetllm.stages.prepare import announce, preflight


def train(config: Config, run: Run) -> float | None:
    """Returns the test metric of the sparse model, for sweeps that optimise it."""
    announce(config)
    if config.dry_run:
        preflight(config)
        return None
    config.model.architecture()  # missing weights are said before a pool is collected
    timings = {}
    with tracked(config, run) as logger:
        print(f"run: {run.folder}", flush=True)
        began = time.perf_counter()
        pool = collect_pool(config)
        timings["pool"] = time.perf_counter() - began
        began = time.perf_counter()
        adaptation, pruning, sparse = adapt(config, run, pool, logger)
        timings["adaptation"] = time.perf_counter() - began
        sizes = export_policy(
            sparse,
            config.task,
            run.folder / "bundle",
            values=config.export.values,
            target_return=adaptation.target_return,
            parent=adaptation.facts,
        )
        return assess(config, run, adaptation, run.folder / "bundle", logger, timings, pruning.report, sizes)
