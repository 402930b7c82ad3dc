"""Replayed test episodes as decision logs, in the form in which an agent leaves its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.edge.agent.logged import decision_record
from edgenetllm.errors import UserError
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import Column, Episodes
from edgenetllm.tasks.task import Task

DECISIONS = "decisions"  # the folder in that of a task's results


def log_episodes(folder: Path, task: Task, episodes: Episodes, policy: str) -> None:
    """Write the decisions of all test episodes, in order, whose observations were kept; an earlier log is replaced.

    Column `data` says which test episodes they are, so that no run learns from the episodes that it is tested on. Raises
    UserError where the disk does not take all of them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    data = task.data_hash(("test",))
    with DecisionLog(folder) as log:
        for number, name in enumerate(task.episode_names("test")):
            steps = int(episodes.valid[number].sum())
            for step in range(steps):
                observation = {key: _at(column, number, step) for key, column in episodes.observation.items()}
                more: dict[str, Any] = {"policy": policy, "reward": episodes.reward[number, step]}
                if episodes.return_to_go is not None:
                    more["return_to_go"] = episodes.return_to_go[number, step]
                action = episodes.action[number, step]
                record = decision_record(
                    task.name, name, step, observation, action, done=step == steps - 1, data=data, **more
                )
                log.write(record, wait=True)
    if log.lost or log.problem:
        raise UserError(log.problem or f"{folder}: {log.lost} decisions could not be written")


def _at(column: Column, episode: int, step: int) -> Any:
    """The value of one decision; of a ragged column its rows."""
    return column.rows(episode, step, step + 1) if isinstance(column, RaggedColumn) else column[episode, step]
