"""`sweep=search`: Optuna chooses what the jobs of `-m` try.

A sweeper of Hydra over Optuna's ask and tell: the plugin hydra-optuna-sweeper needs an Optuna from before version 3 and can
neither stop a bad trial nor go on with a study whose process was killed. The study is a journal file, which several processes
and machines may write at the same time: a second command with the same study helps the first one, or goes on after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from edgenetllm.errors import UserError
from edgenetllm.run import STATE_FILE

DIRECTIONS = ("maximize", "minimize")


class Search(Sweeper):
    """Options of `hydra.sweeper`: see conf/sweep/search.yaml.

    `params` are overrides as they are typed on a command line: choice(a, b), range(1, 10), interval(1e-4, 1e-2), each with
    tag(log, ...) for a logarithmic scale; whatever else is fixed. What is typed with `-m` comes on top.
    """

    def __init__(
        self,
        study: str,
        journal: str,
        direction: str,
        trials: int,
        parallel: int,
        seed: int,
        warmup_trials: int,
        params: dict[str, Any] | None = None,
    ) -> None:
        if direction not in DIRECTIONS:
            raise UserError(f"hydra.sweeper.direction={direction}: choose {' or '.join(DIRECTIONS)}")
        if trials < 1 or parallel < 1:
            raise UserError("hydra.sweeper.trials and hydra.sweeper.parallel must be at least 1")
        self.study_name, self.journal, self.direction = study, Path(journal), direction
        self.trials, self.parallel, self.seed, self.warmup_trials = trials, parallel, seed, warmup_trials
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has as many as wanted."""
        assert self.config is not None
        assert self.launcher is not None
        fixed, space = search_space([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        study = open_study(self.study_name, self.journal, self.direction, self.seed)
        retry_lost(study)
        job = 0
        while (left := self.trials - count_done(study)) > 0:
            asked = [study.ask(space) for _ in range(min(left, self.parallel))]
            where = {"search.study": self.study_name, "search.journal": str(self.journal)}
            where |= {"search.direction": self.direction, "search.warmup_trials": str(self.warmup_trials)}
            batch = [
                [
                    *fixed,
                    *(f"{key}={value}" for key, value in trial.params.items()),
                    *(f"{key}={value}" for key, value in {**where, "search.trial": str(trial.number)}.items()),
                ]
                for trial in asked
            ]
            self.validate_batch_is_legal(batch)
            for trial, returned in zip(asked, self.launcher.launch(batch, initial_job_idx=job), strict=True):
                tell(study, trial, returned)
            job += len(batch)
        report(study, folder)


def search_space(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Fixed overrides, and name -> Optuna distribution. Raises UserError for a space that Optuna has no distribution for."""
    fixed: dict[str, str] = {}
    space: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        fixed.pop(key, None)
        space.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise UserError(
            "hydra.sweeper.params: nothing to search, as no value is a choice(...), range(...) or interval(...)"
        )
    return list(fixed.values()), space


def _distribution(override: Override) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        if float(value.start).is_integer() and float(value.end).is_integer() and "float" not in value.tags:
            return IntDistribution(int(value.start), int(value.end), log)
        return FloatDistribution(value.start, value.end, log)
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        steps = list(value.range())  # as in Python, the end of a range is not in it
        if all(isinstance(step, int) for step in steps):
            return IntDistribution(int(steps[0]), int(steps[-1]), step=int(value.step))
        return FloatDistribution(steps[0], steps[-1], step=value.step)
    raise UserError(f"{override.input_line}: a search needs choice(...), range(...) or interval(...)")


def open_study(name: str, journal: Path, direction: str, seed: int = 0, warmup_trials: int = 5) -> Any:
    """The Optuna study in the file `journal`, begun where it is not there. A trial is stopped when its validation is worse
    than the median of the earlier ones at the same epoch, once `warmup_trials` have ended.

    Raises UserError without Optuna, and for a study that was begun with another direction.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UserError("sweep=search needs Optuna: pip install 'edgenetllm[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=warmup_trials),
        direction=direction if not _exists(name, journal) else None,
        load_if_exists=True,
    )
    if study.direction.name.lower() != direction:
        raise UserError(
            f"hydra.sweeper.direction={direction}: the study {name} in {journal} has {study.direction.name.lower()}"
        )
    return study


def count_done(study: Any) -> int:
    """Trials that ended with a value or were stopped; failed ones do not count."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def retry_lost(study: Any) -> None:
    """Trials that failed, or whose process was killed, are tried again."""
    import optuna

    again = [trial.params for trial in study.trials if trial.user_attrs.get("again")]
    for trial in study.get_trials(deepcopy=True):
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.state.name in ("RUNNING", "FAIL") and trial.params and trial.params not in again:
            again.append(trial.params)
            study.enqueue_trial(trial.params, user_attrs={"again": True}, skip_if_exists=True)


def tell(study: Any, trial: Any, returned: JobReturn) -> None:
    """What became of a job: its objective, stopped early, or failed."""
    from optuna.trial import TrialState

    folder = Path(str(returned.hydra_cfg.hydra.runtime.output_dir)) if returned.hydra_cfg is not None else None
    path = None if folder is None else folder / STATE_FILE
    state = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    if state.get("status") == "stopped":
        study.tell(trial, state=TrialState.PRUNED)
    elif state.get("objective") is not None:
        study.tell(trial, float(state["objective"]))
    else:
        study.tell(trial, state=TrialState.FAIL)


def report(study: Any, folder: Path) -> None:
    """Print the best trial; every trial goes to `trials.csv`."""
    columns = sorted({name for trial in study.trials for name in trial.params})
    lines = [",".join(["trial", "state", "value", *columns])]
    for trial in study.trials:
        cells = [trial.number, trial.state.name, trial.value, *(trial.params.get(name) for name in columns)]
        lines.append(",".join("" if cell is None else str(cell) for cell in cells))
    (folder / "trials.csv").write_text("\n".join(lines) + "\n")
    ended = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if ended:
        best = study.best_trial
        typed = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(
            f"best of {len(study.trials)} trials: {best.value:.4f} with {typed} ({folder / 'trials.csv'})", flush=True
        )


def _exists(name: str, journal: Path) -> bool:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not journal.is_file():
        return False
    return name in optuna.get_all_study_names(JournalStorage(JournalFileBackend(str(journal))))
