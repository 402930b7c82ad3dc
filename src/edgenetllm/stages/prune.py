"""`prune.py`: one more sparsity or method from an adaptation that is there already."""

from __future__ import annotations

import copy
import time

from edgenetllm.config import Config
from edgenetllm.edge.engine import export_policy
from edgenetllm.errors import UserError
from edgenetllm.files import write_json
from edgenetllm.pruning.oneshot import prune_policy
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import FACTS_FILE, collect_pool, make_datamodule, restore
from edgenetllm.stages.assess import assess
from edgenetllm.stages.prepare import announce, preflight


def prune(config: Config, run: Run) -> float | None:
    """Returns the test metric of the sparse model."""
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
        write_json(run.folder / FACTS_FILE, adaptation.facts)
        sizes = export_policy(
            sparse,
            config.task,
            run.folder / "bundle",
            values=config.export.values,
            target_return=adaptation.target_return,
            parent=adaptation.facts,
        )
        return assess(config, run, adaptation, run.folder / "bundle", logger, timings, report, sizes)
