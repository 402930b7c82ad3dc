"""The figures of a domain before and after a specialisation: replay of its test episodes, results, table and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgenetllm.config import TaskConfig
from edgenetllm.edge.engines.engine import EngineSession
from edgenetllm.edge.replay import decision_times, replay
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import Episodes
from edgenetllm.report.bootstrap import difference_ci, mean_ci, ratio_ci
from edgenetllm.report.draw import draw
from edgenetllm.report.episodes import write_episodes_of
from edgenetllm.report.provenance import git_state, versions
from edgenetllm.report.results import (
    RESULTS_FILE,
    PerEpisode,
    Results,
    describe_metrics,
    differences,
    estimates,
    fraction_of_bound,
    latency,
)
from edgenetllm.run import Run
from edgenetllm.stages.evaluation import bounds_of, data_name, model_name
from edgenetllm.tasks.task import Policy, Task

# Rows: the specialised bundle, its parent, the control on a zeroed backbone, the bundle of the adaptation in the cloud.
AFTER, BEFORE, CONTROL, CLOUD = ROWS = ("sparse", "before", "control", "cloud")


@dataclass(frozen=True)
class Domain:
    """The test episodes of a domain as the policies played them."""

    config: TaskConfig
    played: Mapping[str, Episodes]
    per_episode: Mapping[str, PerEpisode]

    def figures(self) -> dict[str, Any]:
        """The first metric before and after, the difference, control and cloud; None where it was not played.

        `of_cloud` is the fraction of the cloud's figure that is reached, and `of_cloud_gain` that of what the cloud gained
        over the parent; None also where that is not positive, see `ratio_ci`.
        """
        metric = self.config.task.metric
        values = {name: self.per_episode[name][metric.name] for name in ROWS if name in self.played}
        means = {name: mean_ci(one).model_dump(mode="json") for name, one in values.items()}
        both, sign = BEFORE in values, 1 if metric.higher_is_better else -1
        share = gain = None
        if CLOUD in values:
            share = ratio_ci(values[AFTER], values[CLOUD], metric.higher_is_better)
        if CLOUD in values and both:
            gained, possible = (sign * (values[name] - values[BEFORE]) for name in (AFTER, CLOUD))
            gain = ratio_ci(gained, possible)
        return {
            "data": data_name(self.config.settings["data"]),
            "metric": f"{metric.label} [{metric.unit}]" if metric.unit else metric.label,
            "higher_is_better": metric.higher_is_better,
            "before": means.get(BEFORE),
            "after": means[AFTER],
            "difference": difference_ci(values[AFTER], values[BEFORE]).model_dump(mode="json") if both else None,
            "control": means.get(CONTROL),
            "cloud": means.get(CLOUD),
            "of_cloud": None if share is None else share.model_dump(mode="json"),
            "of_cloud_gain": None if gain is None else gain.model_dump(mode="json"),
        }


def check_rows(tasks: Mapping[str, Task]) -> None:
    """Raises UserError for a baseline that is called like a row of ours."""
    for task in tasks.values():
        if taken := set(ROWS) & set(task.baselines()):
            raise UserError(
                f"the baseline {taken.pop()!r} of {task.name} is called like a row of specialise.py: rename it"
            )


def play_domain(config: TaskConfig, sessions: Mapping[str, Policy], baselines: bool = True) -> Domain:
    """Replay the test episodes of a domain with these sessions, and the task's baselines."""
    task = config.task
    policies = {**sessions, **(task.baselines() if baselines else {})}
    modules = [one for session in sessions.values() if isinstance(one := getattr(session, "policy", None), nn.Module)]
    for module in modules:
        module.to(config.trainer.device)
    experience = config.experience
    played = replay(task, "test", policies, config.callbacks.progress, experience.workers, experience.backend)
    for module in modules:
        module.to("cpu")
    return Domain(config, played, {name: task.summarise(e.record, e.reward, e.valid) for name, e in played.items()})


def write_domain(
    run: Run,
    *,
    home: Path,
    domain: Domain,
    session: EngineSession,
    parent: Results,
    facts: dict[str, Any],
    sizes: dict[str, Any],
    timings: dict[str, float],
    identity: dict[str, Any] | None,
    notes: list[str],
) -> tuple[Results, dict[str, Any]]:
    """Write results, parquet files, table and plots of a domain into the folder of `run`, which is of this task alone, in the
    folder `home` of the whole run.

    `session` plays the specialised bundle; `parent` are the results of the run that it was specialised from. Also returns
    policy -> metric -> (episodes,).
    """
    config, task = domain.config, domain.config.task
    per_episode = dict(domain.per_episode)
    bounds = bounds_of(config) if config.evaluation.bounds else {}
    decision_times(task, "test", session, 2)  # the first decisions compile, and read everything once
    times = latency(decision_times(task, "test", session, config.engine.latency_decisions))
    results = Results(
        stage="specialise",
        task=task.name,
        model=f"{model_name(run.settings)}, specialised",
        data=data_name(run.settings["data"]),
        run=str(home),
        seed=config.seed,
        sparsity=parent.sparsity,
        pruning=parent.pruning,
        recovery=parent.recovery,
        specialisation=facts,
        metrics=describe_metrics(task.metrics),
        policies=estimates({**per_episode, **bounds}, task.metrics),
        differences=differences(per_episode, task.metric),
        bound=fraction_of_bound(per_episode, bounds, task.metric),
        bundle=sizes,
        timings_s=timings,
        engine=config.engine.label,
        decision_ms={f"{config.engine.label} sparse": times},
        versions=versions(),
        git=git_state(),
        config_hash=run.config_hash,
        data_hash=task.data_hash(),
        identity=identity,
        timeline=task.timeline,
        notes=[*task.notes(), *notes],
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    write_episodes_of(run.folder, task, domain.played, per_episode, bounds)
    results.save(run.folder / RESULTS_FILE)
    draw(run.folder, plots=config.evaluation.plots, trusted=[task.timeline.partition(".")[0]])
    return results, per_episode
