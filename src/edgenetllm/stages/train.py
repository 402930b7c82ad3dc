"""`train.py`: pool, adaptation, one-shot pruning, bundle, replay."""

from __future__ import annotations

import time

from edgenetllm.config import Config
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import adapt, collect_pool, validate
from edgenetllm.stages.assess import assess, describe_pruning
from edgenetllm.stages.export import BUNDLE, export
from edgenetllm.stages.prepare import announce, preflight
from edgenetllm.tasks.task import Split


def train(config: Config, run: Run) -> float | None:
    """Returns the sparse model's metric on validation, for sweeps that optimise it: test data chooses nothing."""
    announce(config)
    if config.dry_run:
        preflight(config)
        return None
    config.model.architecture()  # missing weights and empty splits are said before a pool is collected
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        config.task.seeds(split)
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
        pruned = describe_pruning(config.pruning, pruning.report)
        assess(config, run, adaptation, run.folder / BUNDLE, logger, timings, pruned, sizes)
        score = validate(config.task, sparse, adaptation.target_return)
        logger.log_metrics({f"val/sparse/{config.task.metric.name}": score})
    return score
