"""`evaluate.py`: the bundle of a run over other traces, beside its dense parent and the baselines."""

from __future__ import annotations

from edgenetllm.composition import saved_settings
from edgenetllm.config import Config, load_task
from edgenetllm.errors import UserError
from edgenetllm.reporting.results import RESULTS_FILE, Results
from edgenetllm.reporting.tracking import tracked
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import restore
from edgenetllm.stages.assess import assess
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.prepare import announce
from edgenetllm.tasks.task import Baseline


def evaluate(config: Config, run: Run) -> None:
    """Raises UserError when the run has no bundle, or when a sparsity is typed that is not the bundle's."""
    announce(config)
    if config.run is None or not (config.run / BUNDLE / "manifest.json").is_file():
        raise UserError(f"run={config.run}: no bundle in this folder; name a finished train or prune run")
    parent = Results.load(config.run / RESULTS_FILE)
    if config.sparsity != parent.sparsity:
        raise UserError(f"sparsity={config.sparsity:g}: the bundle has {parent.sparsity:g}; prune.py makes another")
    if config.dry_run:
        print(f"would replay {len(config.task.seeds('test'))} test episodes with {config.run / BUNDLE}")
        return
    adaptation = restore(config, config.run)
    tuned = tuned_on_run(config, run)
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
            tuned,
        )


def tuned_on_run(config: Config, run: Run) -> dict[str, Baseline]:
    """The task's teacher, tuned on the validation data of the run that is evaluated: on other data than that run's, this is
    what a tuned baseline knows that has seen no more than the model."""
    assert config.run is not None
    saved = saved_settings(config.run, run.settings)
    if all(saved[group] == run.settings[group] for group in ("task", "data")):
        return {}
    try:
        teacher = config.task.tuned_as(load_task(saved))
    except UserError as error:
        print(f"no baseline is tuned on the data of {config.run}, which is not there: {error}", flush=True)
        return {}
    return {} if teacher is None else {teacher.name: teacher}
