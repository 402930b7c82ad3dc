"""`dry_run=true` with `-m`: the steps of each job, those that are done already, and what the rest writes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgenetllm.config import Config
from edgenetllm.experience.collect import pool_folder
from edgenetllm.experience.expert import Expert
from edgenetllm.report.text import rich_text
from edgenetllm.specialisation.episodes import with_few_episodes
from edgenetllm.stages.adaptation import FACTS_FILE, wanted_adaptation
from edgenetllm.stages.expert import expert_store, read_expert
from edgenetllm.stages.logs import recorded_folder
from edgenetllm.stages.prepare import Estimate, estimate
from edgenetllm.sweeps.folder import same_sweeps, states
from edgenetllm.sweeps.job import is_done
from edgenetllm.sweeps.summary import differing, print_whole
from edgenetllm.sweeps.sweep import Job, Sweep

STEPS = {
    "train": ("pool", "adaptation", "pruning"),
    "prune": ("pool", "pruning"),
    "specialise": ("pool", "specialisation"),
    "evaluate": (),
}


@dataclass
class Plan:
    """The steps of one job."""

    done: list[str] = field(default_factory=list)  # steps that are done already
    missing: list[str] = field(default_factory=list)  # steps that are still to be taken
    bytes: int = 0  # that it would write


def plan_jobs(stage: str, jobs: Sequence[Job]) -> list[Plan]:
    """The plans in the order of the jobs: what an earlier one makes (pool, adaptation), a later one finds."""
    made: dict[Path, int] = {}
    return [_plan(stage, number, job, made) for number, job in enumerate(jobs)]


def _plan(stage: str, number: int, job: Job, made: dict[Path, int]) -> Plan:
    if is_done(job.state):
        return Plan(done=["all: done before"])
    config, plan = job.load(), Plan()
    config = with_few_episodes(config) if stage == "specialise" else config
    if job.state["status"] != "not started":
        plan.done.append(f"a run that is {job.state['status']}")
    learns = stage != "evaluate"
    searches = any(of_task.experience.expert is not None for of_task in config.tasks.values())
    missing = ["expert"] if learns and searches else []
    recovers = stage in ("train", "prune") and config.recovery.name != "none"
    missing += [*STEPS[stage], *(["recovery"] if recovers else []), "replay"]
    for step, stores in _stores(stage, config, job).items():
        if all(store.exists() or store in made for store in stores):
            before = sorted({made[store] for store in stores if not store.exists()})
            plan.done.append(f"{step} (of job {', '.join(map(str, before))})" if before else step)
            missing.remove(step)
        for store in stores:
            made.setdefault(store, number)
    plan.missing = missing
    plan.bytes = _written(stage, estimate(config), missing)
    return plan


def _stores(stage: str, config: Config, job: Job) -> dict[str, list[Path]]:
    """The places where the results of each step are kept: a place for each task, or one for all."""
    if stage == "evaluate":
        return {}
    stores: dict[str, list[Path]] = {}
    experts: dict[str, Expert] = {}
    searching = {name: one for name, one in config.tasks.items() if one.experience.expert is not None}
    if searching:
        stores["expert"] = [expert_store(one) for one in searching.values()]
        for (name, one), store in zip(searching.items(), stores["expert"], strict=True):
            if store.exists():
                experts[name] = read_expert(one.experience.expert, store)
    if experts.keys() == searching.keys():  # else a pool has no name yet
        pools = config.paths.cache_dir / "pools"
        stores["pool"] = [
            pool_folder(one.task, one.experience.shares, one.pool_seed, pools, experts.get(name), one.data_options)
            if one.experience.folder is None
            else recorded_folder(one)
            for name, one in config.tasks.items()
        ]
    if stage == "train":
        stores["adaptation"] = [wanted_adaptation(config).store / FACTS_FILE]
    return stores


def _written(stage: str, size: Estimate, missing: Sequence[str]) -> int:
    bundle = 0 if stage == "evaluate" else size.bundle
    adaptation = size.checkpoints + 4 * size.trainable if "adaptation" in missing else 0  # and its copy in the store
    return bundle + adaptation + (size.pool if "pool" in missing else 0)


def print_plan(sweep: Sweep, jobs: Sequence[Job], trials: int = 1, console: Console | None = None) -> None:
    """A row for each job, then the sum; `trials`: how often such jobs would run in a search."""
    console = console or Console()
    logs = Path(sweep.config.paths.log_dir)
    plans = plan_jobs(sweep.stage, jobs)
    table = Table(title="what this would run", title_justify="left", box=None, padding=(0, 1))
    for name in ("job", "what differs", "there already", "to do", "disk"):
        table.add_column(name, overflow="fold")
    for number, (plan, differs) in enumerate(zip(plans, differing([job.overrides for job in jobs]), strict=True)):
        done_before, disk = ", ".join(plan.done) or "nothing", f"{plan.bytes / 2**20:.0f} MiB"
        table.add_row(str(number), rich_text(differs), rich_text(done_before), ", ".join(plan.missing), disk)
    print_whole(table, console)
    written = trials * sum(plan.bytes for plan in plans)
    console.print(
        f"{trials * len(plans)} {'trials' if trials > 1 else 'jobs'}, {sweep.config.launcher.jobs} at the same time; about "
        f"{written / 2**20:.0f} MiB of {_free(logs) / 2**30:.0f} GiB free",
        soft_wrap=True,
    )
    if not sweep.config.resume:
        for folder in same_sweeps(sweep.stage, sweep.arguments, sweep.folder.parent):
            done = sum(is_done(state) for state in states(folder).values())
            before = f"this command has run before: {done} jobs are done in {folder}; resume=true keeps them"
            console.print(rich_text(before))


def _free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
