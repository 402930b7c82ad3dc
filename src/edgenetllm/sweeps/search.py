"""A search with Optuna: each trial is a job; the study outlives the process, so that `resume=true` goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.utils import instantiate
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as validated

from edgenetllm.errors import UserError
from edgenetllm.files import write_json
from edgenetllm.installation import program_of
from edgenetllm.mistakes import explain_mistakes
from edgenetllm.option_types import Count, Seed
from edgenetllm.printable import say
from edgenetllm.stages.trial import TRIAL_FILE, open_storage, reading
from edgenetllm.sweeps.plan import print_plan
from edgenetllm.sweeps.sweep import Job, Sweep
from edgenetllm.tracking.tracking import first_line

if TYPE_CHECKING:
    import optuna

BEST_FILE = "best.json"
STUDY = "search"


@validated(config=ConfigDict(extra="forbid"))
class Options:
    """`hydra.sweeper` of sweep=search."""

    params: dict[str, str]  # key -> tag(log, interval(a, b)), interval(a, b), range(a, b, step), choice(a, b)
    trials: Count  # that finish or are stopped, those of earlier commands included
    direction: Literal["auto", "maximize", "minimize"]  # auto: what is better in the task's metric
    storage: str | None  # database, or file for all processes; null: study.log in the folder of the sweep
    sampler: dict[str, Any]  # _target_ of an optuna sampler
    pruner: dict[str, Any] | None  # _target_ of an optuna pruner: stops bad trials at an epoch; null: none
    seed: Seed


@dataclass
class Space:
    """The options that vary, and those that were typed with one value."""

    distributions: dict[str, Any] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)


def read_options(plain: dict[str, Any]) -> Options:
    """The validated options of the search. Raises UserError that names every option to correct."""
    try:
        return Options(**plain)
    except ValidationError as error:
        raise UserError(*explain_mistakes(error, "hydra.sweeper.", Options, plain)) from None


def run_search(sweep: Sweep, options: Options) -> None:
    """Ask for trials, launch them, tell what became of them, until enough have ended. Writes `best.json`.

    Raises UserError for a search that cannot work, and JobsFailed at the end when some trials failed.
    """
    import_optuna()
    space = read_space([*(f"{key}={value}" for key, value in options.params.items()), *sweep.arguments])
    example = sweep.compose(space.fixed)
    metric = example.load().objective.metric
    if sweep.stage == "evaluate" or not example.run.settings["evaluation"]["validation"]:
        raise UserError(
            f"a search optimises the validation metric: {program_of('train')} or {program_of('prune')} with "
            "evaluation.validation=true"
        )
    direction: str = options.direction
    if direction == "auto":
        direction = "maximize" if metric.higher_is_better else "minimize"
    if sweep.config.dry_run:
        say(f"a search to {direction} val/{metric.name} over {', '.join(space.distributions)}; each trial like this:")
        print_plan(sweep, [example], trials=options.trials)
        return
    with sweep.opened():
        storage = options.storage or str(sweep.folder / "study.log")
        study = open_study(storage, direction, options)
        retry_what_broke_off(study)
        _loop(sweep, study, storage, space, options)
        best = _best(study)
        write_json(sweep.folder / BEST_FILE, {"direction": direction, "metric": f"val/{metric.name}", **best})
        say(f"best of {len(study.trials)} trials: {best}")
        sweep.end()


def import_optuna() -> None:
    """Raises UserError where optuna is missing or older than its journal storage."""
    open_storage("sqlite://")


def open_study(storage: str, direction: Any, options: Options) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in storage:
        drop_half_record(Path(storage))
    with reading(storage):
        study = optuna.create_study(
            study_name=STUDY, storage=open_storage(storage), direction=direction, load_if_exists=True
        )
        study.get_trials(deepcopy=False)
    # A sampler does not remember what it drew: with the same seed a resumed search would draw the first trials again.
    study.sampler = instantiate(options.sampler, seed=options.seed + len(study.trials))
    if study.direction.name.lower() != direction:
        raise UserError(
            f"hydra.sweeper.direction={direction}: the study in {storage} was made to {study.direction.name}"
        )
    return study


def drop_half_record(path: Path) -> None:
    """Cut off the part of a last record that a full disk or a loss of power left: Optuna would append the next one to it."""
    from optuna.storages.journal import JournalFileOpenLock

    if not path.is_file():
        return
    lock = JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
    finally:
        lock.release()


def retry_what_broke_off(study: optuna.Study) -> None:
    """Put trials that failed, or whose search was interrupted, first in the queue again, with the same parameters."""
    from optuna.trial import TrialState

    ended = {_key(t.params) for t in study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])}
    ended |= {
        _key(t.system_attrs["fixed_params"]) for t in study.get_trials(states=[TrialState.WAITING])
    }  # queued before
    for trial in study.get_trials(states=[TrialState.RUNNING, TrialState.FAIL]):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and _key(trial.params) not in ended:
            ended.add(_key(trial.params))
            study.enqueue_trial(trial.params)


def _loop(sweep: Sweep, study: optuna.Study, storage: str, space: Space, options: Options) -> None:
    from optuna.trial import TrialState

    failed = 0
    while True:
        ended = len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])) + failed
        if ended >= options.trials:
            return
        trials = [
            study.ask(space.distributions) for _ in range(min(sweep.config.launcher.jobs, options.trials - ended))
        ]
        jobs = [sweep.compose([*space.fixed, *words(trial.params)]) for trial in trials]
        for trial, job in zip(trials, jobs, strict=True):
            facts = {"storage": storage, "study": STUDY, "number": trial.number, "pruner": options.pruner}
            job.run.folder.mkdir(parents=True, exist_ok=True)
            write_json(job.run.folder / TRIAL_FILE, facts)
        sweep.launch(jobs)
        failed += sum(not _tell(study, trial, job) for trial, job in zip(trials, jobs, strict=True))


def _tell(study: optuna.Study, trial: optuna.Trial, job: Job) -> bool:
    """Tell the study what is in the job's folder; False for a trial that failed."""
    from optuna.trial import TrialState

    state = job.state
    objective = state.get("objective")
    if state["status"] == "stopped":
        study.tell(trial, state=TrialState.PRUNED)
    elif state["status"] == "finished" and objective is not None:
        study.tell(trial, objective)
    else:
        study.tell(trial, state=TrialState.FAIL)
        return False
    return True


def _best(study: optuna.Study) -> dict[str, Any]:
    try:
        return {"value": study.best_value, "overrides": words(study.best_params), "trial": study.best_trial.number}
    except ValueError as error:
        return {"value": None, "overrides": [], "trial": None, "why": first_line(error)}


def read_space(arguments: Sequence[str]) -> Space:
    """The options that vary. Raises UserError when none does. A key that is typed replaces that of the sweep's `params`."""
    space = Space()
    last = {
        override.get_key_element(): override for override in OverridesParser.create().parse_overrides(list(arguments))
    }
    for key, override in last.items():
        if override.is_sweep_override():
            space.distributions[key] = distribution(override)
        else:
            space.fixed.append(f"{key}={override.get_value_element_as_str()}")
    if not space.distributions:
        raise UserError(
            "this search has nothing to vary: type sparsity=0.2,0.4 or 'trainer.task_lr=interval(1e-3,1e-2)'"
        )
    return space


def distribution(override: Override) -> Any:
    """Optuna's distribution of Hydra's sweep syntax: int(interval(a, b)) makes whole numbers, the tag `log` a log scale."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low: Any = value.start
        high: Any = value.end
        log = "log" in value.tags
        whole = isinstance(low, int) and isinstance(high, int)
        return IntDistribution(low, high, log=log) if whole else FloatDistribution(float(low), float(high), log=log)
    if isinstance(value, RangeSweep | ChoiceSweep):
        choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        return CategoricalDistribution(choices)
    raise UserError(f"{override.input_line}: give an interval, a range or a choice")


def words(params: dict[str, Any]) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def _key(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
