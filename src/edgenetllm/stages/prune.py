"""`prune.py`: one more sparsity, method or recovery of an adaptation that exists already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenetllm.config import Config
from edgenetllm.edge.engine import load_whole_policy
from edgenetllm.errors import UserError
from edgenetllm.installation import program_of
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.printable import say
from edgenetllm.report.results import RESULTS_FILE, Results, results_folders
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import (
    Adaptation,
    adapted_in,
    restore,
    start_policy,
    write_facts,
)
from edgenetllm.stages.check_task import check_tasks
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.finish import finish
from edgenetllm.stages.identity import pruned_identity
from edgenetllm.stages.lineage import used_bundle, used_or_made_adaptation, used_pool
from edgenetllm.stages.logs import check_logs, check_same_logs
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.prepare import announce, check_pruning, preflight
from edgenetllm.stages.sparsify import build_pruning, prune_policy
from edgenetllm.tracking.tracking import tracked


def prune(config: Config, run: Run) -> float | None:
    """Returns the sparse model's metric on validation, for sweeps that optimise it: test data chooses nothing."""
    announce(config)
    if config.run is None:
        raise UserError(f"{program_of('prune')} needs the run of an adaptation: run=logs/train/...")
    check_pruning(config)
    check_logs(config)
    if config.dry_run:
        preflight(config)
        return None
    adaptation = restore(config, config.run)
    start, pruned_before = _start(config, adaptation)
    check_tasks(config)
    with tracked(config, run) as logger:
        say(f"run: {run.folder}")
        pools = collect_pools(config, logger)
        check_same_logs(pools, adaptation.facts.get("identity") or {}, config.run)
        used_pool(config, logger, pools)
        used_or_made_adaptation(config, run, logger, adaptation, pools)
        if pruned_before is not None:
            used_bundle(config, logger, pruned_before)
        pruning = build_pruning(config)
        sparse = prune_policy(config, pruning, start, pools)
        write_facts(run.folder, adaptation.facts, parent=config.run)
        identity = _identity(config, run, adaptation, further=pruned_before is not None)
        return finish(config, run, adaptation, sparse, pruning, pools, logger, {}, identity)


def _identity(config: Config, run: Run, adaptation: Adaptation, further: bool) -> dict[str, Any] | None:
    """The identity of the bundle without its seed; None where it is pruned `further` from a bundle that has none."""
    known = adaptation.facts.get("identity")
    if not further:
        return pruned_identity(config, known, run.follows_seed)
    assert config.run is not None
    before = Results.load(results_folders(config.run)[0] / RESULTS_FILE).identity  # of each task the same
    return None if before is None else pruned_identity(config, known, run.follows_seed, pruned_from=before)


def _start(config: Config, adaptation: Adaptation) -> tuple[PolicyNetwork, Path | None]:
    """The policy to prune, and the bundle that it comes from if `pruning.force` says that it is to be pruned further.

    Raises UserError for a pruned run of prune.py without it.
    """
    assert config.run is not None
    folders = results_folders(config.run)
    parent = Results.load(folders[0] / RESULTS_FILE) if folders else None
    if parent is not None and parent.stage == "specialise":
        raise UserError(
            f"run={config.run} was specialised, and its encoder and head belong to its sparse backbone: prune the run of its "
            f"adaptation ({adapted_in(config.run)}), then specialise that"
        )
    if parent is None or parent.sparsity == 0 or (parent.stage != "prune" and not config.pruning.force):
        return start_policy(config, adaptation), None
    if not config.pruning.force:
        label = (parent.pruning or {}).get("label")
        raise UserError(
            f"run={config.run} is pruned already ({label}, {parent.sparsity:.0%}): name the run of its adaptation "
            f"({adapted_in(config.run)}), or go further with pruning.force=true"
        )
    if config.sparsity < parent.sparsity:
        raise UserError(f"sparsity={config.sparsity:g}: {config.run} has {parent.sparsity:g}; pruning never goes back")
    before = (parent.pruning or {}).get("lora")
    if before != config.pruning.lora:
        raise UserError(f"pruning.lora={config.pruning.lora}: {config.run} was pruned with pruning.lora={before}")
    return load_whole_policy(config.run / BUNDLE, config.task_objects), config.run / BUNDLE
