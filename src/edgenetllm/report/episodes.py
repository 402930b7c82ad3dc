"""The two parquet files of a run: what every policy did in each test episode, and the metrics that the task makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgenetllm.experience.rollout import Column, Episodes
from edgenetllm.report.metrics_file import METRICS_FILE, write_metrics
from edgenetllm.report.replay_file import REPLAY_FILE, write_replay
from edgenetllm.report.results import PerEpisode
from edgenetllm.tasks.names import check_record
from edgenetllm.tasks.task import Task


def write_episodes_of(
    folder: Path,
    task: Task,
    played: Mapping[str, Episodes],
    per_episode: Mapping[str, PerEpisode],
    bounds: Mapping[str, PerEpisode],
) -> None:
    """Write `replay.parquet` and `metrics.parquet` of the test episodes into `folder`.

    `per_episode` is what `task.summarise` says of `played`, `bounds` what `task.bounds` says. Raises UserError for names that
    would overwrite columns or cannot be stored.
    """
    names = task.episode_names("test")
    rows = {policy: _columns(task, episodes) for policy, episodes in played.items()}
    write_replay(folder / REPLAY_FILE, rows, names, {policy: episodes.valid for policy, episodes in played.items()})
    write_metrics(folder / METRICS_FILE, per_episode, bounds, task.metrics, names, task.seeds("test"))


def _columns(task: Task, episodes: Episodes) -> dict[str, Column]:
    check_record(episodes.record, type(task))
    columns: dict[str, Column] = {"action": episodes.action, "reward": episodes.reward, **episodes.record}
    if episodes.return_to_go is not None:
        columns["return_to_go"] = episodes.return_to_go
    return columns
