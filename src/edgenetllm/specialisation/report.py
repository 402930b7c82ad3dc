"""The end of a specialisation: replay of the new and the old domain of each task, results and loggers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgenetllm.config import Config, TaskConfig
from edgenetllm.report.results import Results
from edgenetllm.report.summary import episode_table, summaries
from edgenetllm.run import Run
from edgenetllm.specialisation.domain import AFTER, Domain, play_domain, write_domain
from edgenetllm.specialisation.learn import Learnt
from edgenetllm.specialisation.sessions import sessions_on
from edgenetllm.specialisation.start import plays
from edgenetllm.stages.export import BUNDLE
from edgenetllm.tracking.loggers import Loggers
from edgenetllm.tracking.tracking import log_identity, log_results

OLD_DOMAIN = "old_domain"  # folder of a run, for the data that the bundle was adapted to


def report(
    config: Config,
    run: Run,
    logger: Loggers,
    old: Mapping[str, TaskConfig],
    parent: Results,
    both: tuple[Learnt, Learnt | None],
    cloud: Path | None,
    facts: dict[str, Any],
    sizes: dict[str, Any],
    seconds: dict[str, float],
    identity: dict[str, Any] | None,
    notes: list[str],
) -> dict[str, Results]:
    """Replay the domains of each task, and write what comes of it: RUN/<task> and RUN/old_domain/<task>.

    `both` are what was learnt and the control, `cloud` is the bundle to compare with, and `parent` are the results of the run
    whose bundle was specialised. Returns the results of each task on its new domain.
    """
    assert config.run is not None
    several = len(config.tasks) > 1
    reports: dict[str, Results] = {}
    for name, of_task in config.tasks.items():
        # Replay.
        began = time.perf_counter()
        domains: dict[str, Domain] = {}
        sessions = sessions_on(of_task, run, config.run / BUNDLE, *both, cloud)
        domains["new"] = play_domain(of_task, sessions)
        if name in old and plays(run.folder / BUNDLE, old[name].task):
            before = sessions_on(old[name], run, config.run / BUNDLE, *both)
            domains["old"] = play_domain(old[name], before, baselines=False)
        timings = {**seconds, "replay": time.perf_counter() - began}
        # Results: the same facts in those of both domains.
        own = {**facts, "domains": {key: one.figures() for key, one in domains.items()}}
        write = partial(
            write_domain,
            home=run.folder,
            parent=parent,
            facts=own,
            sizes=sizes,
            timings=timings,
            identity=identity,
            notes=notes,
        )
        task_run = run.of_task(name)
        if "old" in domains:
            settings = {**task_run.settings, "task": old[name].settings["task"], "data": old[name].settings["data"]}
            place = Run(run.folder / OLD_DOMAIN / name, run.stage, settings, run.choices)
            write(place, domain=domains["old"], session=before[AFTER])
        reports[name], per_episode = write(task_run, domain=domains["new"], session=sessions[AFTER])
        # The loggers.
        prefix = f"{name}/" if several else ""
        table = episode_table(reports[name], per_episode, of_task.task.episode_names("test"))
        log_results(logger, summaries(reports)[name], table, task_run.folder, prefix)
        log_identity(logger, reports[name], prefix)
    return reports
