"""`evaluate.py`: the bundle of a run over other traces, next to its dense parent and the baselines."""

from __future__ import annotations

from typing import Any

from edgenetllm.affects import options_for
from edgenetllm.composition import saved_settings
from edgenetllm.config import Config, load_task
from edgenetllm.earlier import by_task
from edgenetllm.errors import UserError
from edgenetllm.installation import program_of
from edgenetllm.parallel import require_backend
from edgenetllm.printable import say
from edgenetllm.report.results import RESULTS_FILE, Results, results_folders
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import read_facts, restore
from edgenetllm.stages.check_task import check_tasks
from edgenetllm.stages.evaluation import evaluate_bundle
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.player import evaluate_in_player
from edgenetllm.stages.prepare import announce, check_engine
from edgenetllm.stages.verify import verify
from edgenetllm.task_settings import task_settings
from edgenetllm.tasks.task import Policy
from edgenetllm.tracking.tracking import tracked


def evaluate(config: Config, run: Run) -> None:
    """Replay the bundle of a run. Raises UserError without one, or for a typed option that would have made another one."""
    if config.verify:
        verify(config, run)
        return
    announce(config)
    # The run has a bundle and results.
    if config.run is None or not (config.run / BUNDLE / "manifest.json").is_file():
        raise UserError(f"run={config.run}: no bundle in this folder; name a finished train or prune run")
    folders = results_folders(config.run)
    if not folders:
        raise UserError(f"run={config.run}: no {RESULTS_FILE}; a finished run leaves one for each task")
    parent = Results.load(folders[0] / RESULTS_FILE)  # what they say of the bundle is the same
    check_engine(config)
    # Nothing is typed that would have made another bundle.
    if config.sparsity != parent.sparsity:
        raise UserError(
            f"sparsity={config.sparsity:g}: the bundle has {parent.sparsity:g}; {program_of('prune')} makes another"
        )
    if groups := groups_of_another_bundle(run.settings, saved_settings(config.run, run.settings)):
        evaluate, prune = program_of("evaluate"), program_of("prune")
        raise UserError(f"{groups[0]}: {evaluate} replays the bundle of {config.run} as it is; {prune} makes another")
    if config.replay.name == "player":
        evaluate_in_player(config, run, parent)
        return
    if config.dry_run:
        episodes = sum(len(task.seeds("test")) for task in config.task_objects.values())
        say(f"would replay {episodes} test episodes with {config.run / BUNDLE}")
        return
    # The dense parent, and what is played next to it.
    if parent.stage == "specialise" and not _has_dense(config):
        raise UserError(
            f"run={config.run} learnt task {config.task_name} on the backbone of another one: there is no dense model of "
            f"this task to compare it with; {program_of('specialise')} has replayed it"
        )
    require_backend(config.experience.workers, config.experience.backend)
    adaptation = restore(config, config.run)
    tuned = tuned_on_run(config, run)
    check_tasks(config)
    with tracked(config, run) as logger:
        say(f"run: {run.folder}")
        evaluate_bundle(
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


def _has_dense(config: Config) -> bool:
    """True where the adaptation that a run stands on plays its tasks: not where it was specialised for another one."""
    assert config.run is not None
    targets = by_task(read_facts(config.run)["target_return"], config.tasks)
    return isinstance(targets, dict) and set(targets) == set(config.tasks)


def groups_of_another_bundle(settings: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """The groups of options with which the bundle of a run, whose settings are `saved`, would have been another one."""
    now, before = map(_of_the_bundle, (settings, saved))
    return sorted({key.partition(".")[0] for key in {*now, *before} if now.get(key) != before.get(key)})


def _of_the_bundle(settings: dict[str, Any]) -> dict[str, Any]:
    """The options of how a bundle is made from an adaptation, by their dotted keys."""
    before = options_for("adaptation", settings, Config)
    return {key: value for key, value in options_for("pruning", settings, Config).items() if key not in before}


def tuned_on_run(config: Config, run: Run) -> dict[str, dict[str, Policy]]:
    """The teacher of each task, tuned on the validation data of the run that is evaluated.

    On other data than that run's, it is a tuned baseline that has seen no more than the model.
    """
    assert config.run is not None
    saved = saved_settings(config.run, run.settings)
    teachers: dict[str, dict[str, Policy]] = {}
    for name, task in config.task_objects.items():
        before = task_settings(saved, name)
        if all(before[group] == run.of_task(name).settings[group] for group in ("task", "data")):
            continue
        try:
            teacher = task.tuned_as(load_task(before))
        except UserError as error:
            say(f"no baseline is tuned on the data of {config.run}, which is not there: {error}")
            continue
        if teacher is not None:
            teachers[name] = {teacher.name: teacher}
    return teachers
