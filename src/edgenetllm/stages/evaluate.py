"""`evaluate.py`: the bundle of a run over other traces, beside its dense parent and the baselines."""

from __future__ import annotations

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.reporting.results import Results
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import restore
from edgenetllm.stages.assess import assess, results_file
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.prepare import announce


def evaluate(config: Config, run: Run) -> None:
    """Raises UserError when the run has no bundle, or when a sparsity is typed that is not the bundle's."""
    announce(config)
    if config.run is None or not (config.run / BUNDLE / "manifest.json").is_file():
        raise UserError(f"run={config.run}: no bundle in this folder; name a finished train or prune run")
    parent = Results.load(results_file(config, config.run))
    if config.sparsity != parent.sparsity:
        raise UserError(f"sparsity={config.sparsity:g}: the bundle has {parent.sparsity:g}; prune.py makes another")
    if config.dry_run:
        episodes = sum(len(part.task.seeds("test")) for part in config.parts.values())
        print(f"would replay {episodes} test episodes with {config.run / BUNDLE}")
        return
    adaptation = restore(config, config.run)
    with tracked(config, run) as logger:
        print(f"run: {run.folder}", flush=True)
        assess(
            config,
            run,
            adaptation,
            config.run / BUNDLE,
            logger,
            {},
            parent.pruning,
            parent.recovery,
            parent.bundle or {},
        )
