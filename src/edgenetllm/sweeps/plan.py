"""`dry_run=true` with `-m`: what each job would do, what is there already, how long and how large the rest is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import pool_folder
from edgenetllm.files import write_json
from edgenetllm.reporting.results import RESULTS_FILE
from edgenetllm.run import CONFIG_FILE, Run
from edgenetllm.stages.adaptation import FACTS_FILE, adaptation_store
from edgenetllm.stages.improvement import improvement_store, read_improved
from edgenetllm.stages.prepare import estimate
from edgenetllm.sweeps.job import finished_run, runs_under

PLAN_FILE = "plan.json"
# What a duration depends on, beside the machine: the past runs with the same settings tell it.
DEPENDS = {
    "pool": ("task", "data", "experience", "budget"),
    "adaptation": ("task", "data", "model", "adapter", "trainer", "budget"),
    "pruning": ("task", "model", "pruning"),
    "recovery": ("task", "model", "recovery"),
    "replay": ("task", "data", "model"),
}


def plan_job(config: Config, run: Run) -> dict[str, Any]:
    """What is there of this job, seconds of what is not (None: no past run tells), bytes that it would write."""
    logs = config.paths.log_dir
    done = finished_run(run, logs)
    there = []
    if done is None:
        there += _found("pool", pool_path(config))
        if run.stage == "train":
            there += _found("adaptation", adaptation_store(config, run) / FACTS_FILE)
    durations = {} if done is not None else {name: past_seconds(logs, name, run) for name in _steps(run, there)}
    size = estimate(config)
    written = 0 if done is not None else size.bundle + (0 if "adaptation" in there else size.checkpoints)
    written += 0 if done is not None or "pool" in there else size.pool
    return {"done": None if done is None else str(done), "there": there, "seconds": durations, "bytes": written}


def write_plan(run: Run, load: Callable[[], Config]) -> None:
    """`plan.json` in the folder of a job; for one whose configuration does not load, what is wrong with it."""
    try:
        config = load()
        plan = {**plan_job(config, run), "logs": str(config.paths.log_dir)}
    except UserError as error:
        plan = {"error": str(error)}
    write_json(run.folder / PLAN_FILE, plan)


def typed_overrides(job: Path) -> list[str]:
    """What Hydra gave to a job of a sweep, as it is typed."""
    path = job / ".hydra" / "overrides.yaml"
    return [str(word) for word in OmegaConf.load(path)] if path.is_file() else []


def differing(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Of each job, what not all jobs have."""
    shared = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(word for word in typed if word not in shared) for typed in overrides]


def pool_path(config: Config) -> Path | None:
    """None: the policy that would play is not improved yet."""
    improved = None
    if config.experience.improvement is not None:
        store = improvement_store(config)
        if not store.exists():
            return None
        improved = read_improved(config.experience.improvement, store)
    return pool_folder(config.task, config.experience.shares, config.seed, config.paths.cache_dir / "pools", improved)


def past_seconds(logs: Path, step: str, run: Run) -> float | None:
    """Median over the finished runs under `logs` whose settings agree in all that `step` depends on."""
    times = [
        float(seconds)
        for settings, timings in past_runs(logs)
        for seconds in [timings.get(step)]
        if seconds and all(settings.get(group) == run.settings.get(group) for group in DEPENDS[step])
    ]
    return median(times) if times else None


def past_runs(logs: Path) -> Iterator[tuple[Mapping[str, Any], dict[str, float]]]:
    """Settings and timings_s of every finished run."""
    for folder, state in runs_under(logs):
        if state.get("status") != "finished" or not (folder / RESULTS_FILE).is_file():
            continue
        results = json.loads((folder / RESULTS_FILE).read_text())
        timings = dict(results.get("timings_s", {}))
        timings["recovery"] = (results.get("recovery") or {}).get("seconds", 0)
        settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
        assert isinstance(settings, dict)
        yield {str(group): node for group, node in settings.items()}, timings


def print_plan(folder: Path, console: Console | None = None) -> list[str]:
    """A row for each job, then the sum; returns the jobs that cannot run.

    What two jobs share (a pool, an adaptation) is counted in both.
    """
    console = console or Console()
    table = Table(title="what this sweep would run", title_justify="left", box=None, padding=(0, 1))
    for name in ("job", "what differs", "there already", "about", "disk"):
        table.add_column(name, overflow="fold")
    plans = sorted(folder.glob(f"*/{PLAN_FILE}"), key=lambda path: (len(path.parent.name), path.parent.name))
    seconds, unknown, written, logs = 0.0, 0, 0, folder
    wrong = []
    for path, typed in zip(plans, differing([typed_overrides(path.parent) for path in plans]), strict=True):
        plan = json.loads(path.read_text())
        if "error" in plan:
            wrong.append(path.parent.name)
            table.add_row(path.parent.name, escape(typed), f"[red]{escape(plan['error'])}", "", "")
            continue
        logs = Path(plan["logs"])
        known = sum(value for value in plan["seconds"].values() if value is not None)
        missing = [name for name, value in plan["seconds"].items() if value is None]
        unknown += bool(missing)
        seconds, written = seconds + known, written + plan["bytes"]
        about = duration(known) + (f" and {', '.join(missing)} (no past run tells)" if missing else "")
        there = f"all of it: {plan['done']}" if plan["done"] else ", ".join(plan["there"]) or "nothing"
        table.add_row(path.parent.name, escape(typed), escape(there), about, f"{plan['bytes'] / 2**20:.0f} MiB")
    console.print(table)
    while not logs.exists():
        logs = logs.parent
    free = shutil.disk_usage(logs).free
    more = f", and what no past run tells of {unknown} jobs" if unknown else ""
    console.print(
        f"{len(plans)} jobs, at most {duration(seconds)} one after another{more}; at most {written / 2**20:.0f} MiB of "
        f"{free / 2**30:.0f} GiB free"
    )
    return wrong


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _found(name: str, path: Path | None) -> list[str]:
    return [name] if path is not None and path.exists() else []


def _steps(run: Run, there: list[str]) -> list[str]:
    steps = {"train": ["pool", "adaptation", "pruning"], "prune": ["pool", "pruning"], "evaluate": []}[run.stage]
    if run.stage != "evaluate" and run.settings.get("recovery", {}).get("name") != "none":
        steps = [*steps, "recovery"]
    return [step for step in [*steps, "replay"] if step not in there]
