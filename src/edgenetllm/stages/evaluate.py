"""`evaluate.py`: the bundle of a run over other traces, beside its dense parent and the baselines."""

from __future__ import annotations

from edgenetllm.composition import saved_settings
from edgenetllm.config import Config, load_task
from edgenetllm.errors import UserError
from edgenetllm.installation import program_of
from edgenetllm.parallel import require_backend
from edgenetllm.parts import part_settings
from edgenetllm.report.results import Results
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import restore
from edgenetllm.stages.assess import assess, results_file
from edgenetllm.stages.check_task import check_tasks
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.prepare import announce
from edgenetllm.tasks.task import Baseline
from edgenetllm.tracking.tracking import tracked

OF_THE_BUNDLE = ("pruning", "recovery", "export")  # groups that made it


def evaluate(config: Config, run: Run) -> None:
    """Raises UserError when the run has no bundle, or when something is typed that would have made another one."""
    announce(config)
    if config.run is None or not (config.run / BUNDLE / "manifest.json").is_file():
        raise UserError(f"run={config.run}: no bundle in this folder; name a finished train or prune run")
    parent = Results.load(results_file(config, config.run))
    if config.sparsity != parent.sparsity:
        raise UserError(
            f"sparsity={config.sparsity:g}: the bundle has {parent.sparsity:g}; {program_of('prune')} makes another"
        )
    saved = saved_settings(config.run, run.settings)
    for group in OF_THE_BUNDLE:
        typed, made = ({**settings[group], "force": None} for settings in (run.settings, saved))
        if typed != made:
            evaluate, prune = program_of("evaluate"), program_of("prune")
            raise UserError(f"{group}: {evaluate} replays the bundle of {config.run} as it is; {prune} makes another")
    if config.dry_run:
        episodes = sum(len(part.task.seeds("test")) for part in config.parts.values())
        print(f"would replay {episodes} test episodes with {config.run / BUNDLE}")
        return
    require_backend(config.experience.workers, config.experience.backend)
    adaptation = restore(config, config.run)
    tuned = tuned_on_run(config, run)
    check_tasks(config)
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
            parent.identity,
            tuned,
        )


def tuned_on_run(config: Config, run: Run) -> dict[str, dict[str, Baseline]]:
    """By task, its teacher, tuned on the validation data of the run that is evaluated: on other data than that run's, this is
    what a tuned baseline knows that has seen no more than the model."""
    assert config.run is not None
    saved = saved_settings(config.run, run.settings)
    found: dict[str, dict[str, Baseline]] = {}
    for name, part in config.parts.items():
        before = part_settings(saved, name) if config.joint else saved
        if all(before[group] == run.part(name).settings[group] for group in ("task", "data")):
            continue
        try:
            teacher = part.task.tuned_as(load_task(before))
        except UserError as error:
            print(f"no baseline is tuned on the data of {config.run}, which is not there: {error}", flush=True)
            continue
        if teacher is not None:
            found[name] = {teacher.name: teacher}
    return found
