"""`prune.py`: one more sparsity or method from an adaptation that is there already."""

from __future__ import annotations

import copy
import time

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.pruning.oneshot import prune_policy
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import collect_pool, make_datamodule, restore, validate, write_facts
from edgenetllm.stages.assess import assess, describe_pruning
from edgenetllm.stages.export import BUNDLE, export
from edgenetllm.stages.prepare import announce, preflight


def prune(config: Config, run: Run) -> float | None:
    """Returns the sparse model's metric on validation, for sweeps that optimise it: test data chooses nothing."""
    announce(config)
    if config.run is None:
        raise UserError("prune.py needs the run of an adaptation: run=logs/train/...")
    if config.dry_run:
        preflight(config)
        return None
    adaptation = restore(config, config.run)
    timings = {}
    with tracked(config, run) as logger:
        print(f"run: {run.folder}", flush=True)
        pool = collect_pool(config)
        began = time.perf_counter()
        sparse = copy.deepcopy(adaptation.dense)
        batches = make_datamodule(config, pool).calibration_batches(config.pruning.windows)
        report = prune_policy(sparse, config.pruning, config.sparsity, batches)  # type: ignore[arg-type]
        timings["pruning"] = time.perf_counter() - began
        write_facts(run.folder, adaptation.facts, parent=config.run)
        sizes = export(config, run, adaptation, sparse)
        pruned = describe_pruning(config.pruning, report)
        assess(config, run, adaptation, run.folder / BUNDLE, logger, timings, pruned, sizes)
        score = validate(config.task, sparse, adaptation.target_return)
        logger.log_metrics({f"val/sparse/{config.task.metric.name}": score})
    return score
