"""`train.py`: pool, adaptation, one-shot pruning, recovery, bundle, replay."""

from __future__ import annotations

import time

from edgenetllm.config import Config
from edgenetllm.printable import say
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import adapt, check_resumed, start_policy, wanted_adaptation
from edgenetllm.stages.check_task import check_tasks
from edgenetllm.stages.finish import finish
from edgenetllm.stages.finite_budget import with_numbers
from edgenetllm.stages.identity import pruned_identity
from edgenetllm.stages.lineage import used_or_made_adaptation, used_pool
from edgenetllm.stages.logs import check_logs, check_same_logs, logs_in
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.prepare import announce, check_pruning, preflight
from edgenetllm.stages.sparsify import build_pruning, prune_policy
from edgenetllm.stages.trainer import check_trainer
from edgenetllm.tasks.task import Split
from edgenetllm.tracking.tracking import tracked


def train(config: Config, run: Run) -> float | None:
    """Returns the sparse model's metric on validation, for sweeps that optimise it: test data chooses nothing."""
    # What can fail is tried before anything expensive.
    config = with_numbers(config)
    announce(config)
    check_pruning(config)
    check_trainer(config)
    check_logs(config)
    if config.dry_run:
        preflight(config)
        return None
    splits: tuple[Split, ...] = ("train", "val")  # empty splits are said before a pool is collected
    for split in splits:
        for task in config.task_objects.values():
            task.seeds(split)
    wanted = wanted_adaptation(config, run.follows_seed)
    check_resumed(config, run, wanted)
    timings = {}
    check_tasks(config)
    with tracked(config, run) as logger:
        say(f"run: {run.folder}")
        # The pools.
        began = time.perf_counter()
        pools = collect_pools(config, logger)
        check_same_logs(pools, wanted.identity, run.folder)
        run.note(logs=logs_in(wanted.identity))  # for the other ranks
        timings["pool"] = time.perf_counter() - began
        used_pool(config, logger, pools)
        # The adaptation, at whose end the callback prunes; one from the store is pruned here.
        began = time.perf_counter()
        pruning = build_pruning(config)
        adaptation = adapt(config, run, wanted, pools, logger, pruning)
        timings["adaptation"] = time.perf_counter() - began - pruning.seconds
        used_or_made_adaptation(config, run, logger, adaptation, pools)
        sparse = adaptation.pruned or prune_policy(config, pruning, start_policy(config, adaptation), pools)
        identity = pruned_identity(config, adaptation.facts.get("identity"), run.follows_seed)
        return finish(config, run, adaptation, sparse, pruning, pools, logger, timings, identity)
