"""`train.py`: pool, adaptation, one-shot pruning, bundle, replay."""

from __future__ import annotations

import time

from edgenetllm.config import Config
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import adapt, collect_pool
from edgenetllm.stages.assess import assess
from edgenetllm.stages.export import BUNDLE, export
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
        sizes = export(config, run, adaptation, sparse)
        return assess(config, run, adaptation, run.folder / BUNDLE, logger, timings, pruning.report, sizes)
