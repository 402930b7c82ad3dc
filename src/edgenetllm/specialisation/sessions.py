"""The sessions that play a domain before and after a specialisation, and the domain that a bundle was adapted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenetllm.composition import saved_settings
from edgenetllm.config import Config, TaskConfig, load_config
from edgenetllm.errors import UserError
from edgenetllm.models.session import Session
from edgenetllm.run import Run
from edgenetllm.specialisation.domain import AFTER, BEFORE, CLOUD, CONTROL
from edgenetllm.specialisation.learn import Learnt
from edgenetllm.specialisation.start import plays
from edgenetllm.stages.export import BUNDLE
from edgenetllm.task_settings import task_names, task_settings


def old_domains(config: Config, run: Run) -> tuple[dict[str, TaskConfig], list[str]]:
    """The configurations of the tasks on the data that the bundle was adapted to, where that is other data, and notes."""
    assert config.run is not None
    assert config.specialise is not None
    saved, domains, notes = saved_settings(config.run, run.settings), dict[str, TaskConfig](), []
    for name in config.tasks:
        if name not in task_names(saved):
            notes.append(
                f"{name} is another task than that of {config.run}, whose small file stays as it is: a device keeps both"
            )
            continue
        before, now = task_settings(saved, name), run.of_task(name).settings
        if not config.specialise.old_domain or all(before[group] == now[group] for group in ("task", "data")):
            continue
        try:
            domains[name] = load_config({**now, "task": before["task"], "data": before["data"]}).tasks[name]
        except UserError as error:
            notes.append(f"nothing was replayed on the old domain: {str(error).splitlines()[0]}")
    return domains, notes


def sessions_on(
    config: TaskConfig, run: Run, bundle: Path, learnt: Learnt, control: Learnt | None, cloud: Path | None = None
) -> dict[str, Any]:
    """The sessions that play a domain: the specialised bundle, its parent where that can, control, and the cloud's bundle."""
    task, engine = config.task, config.engine
    sample_seed = config.evaluation.sample_seed if config.evaluation.sample else None
    sessions: dict[str, Any] = {AFTER: engine.load(run.folder / BUNDLE, task, sample_seed)}
    if plays(bundle, task):
        sessions[BEFORE] = engine.load(bundle, task, sample_seed)
    if control is not None:
        own, target = control.policy.of_task(task.name), control.target_returns[task.name]
        sessions[CONTROL] = Session(own, target, CONTROL, sample_seed)
    if cloud is not None:
        sessions[CLOUD] = engine.load(cloud, task, sample_seed)
    return sessions
