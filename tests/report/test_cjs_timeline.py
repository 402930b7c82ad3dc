"""Plots of cluster scheduling, from a replay of real policies."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from edgenetllm.edge.replay import replay
from edgenetllm.experience.rollout import play
from edgenetllm.plotting import select
from edgenetllm.report.episodes import read_replay, write_episodes_of
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.policies.baselines import fair, fifo
from edgenetllm.tasks.cjs.simulator.core import Episode
from edgenetllm.tasks.cjs.simulator.observation import Observer
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.cjs.task import CjsTask
from edgenetllm.tasks.cjs.timeline import _busy_share, completion_times, held_jobs, more, timeline


@pytest.fixture(scope="module")
def played():
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    task = CjsTask("cjs", data, "pointer", window=5, segment=16, validation=2, test=3)
    return task, replay(task, "test", {"fair": fair(), "fifo": fifo()}, progress=False)


@pytest.fixture(scope="module")
def table(played, tmp_path_factory):
    task, episodes = played
    folder = tmp_path_factory.mktemp("replay")
    per_episode = {name: task.summarise(e.record, e.reward, e.valid) for name, e in episodes.items()}
    write_episodes_of(folder, task, episodes, per_episode, task.bounds("test"))
    return read_replay(folder / "replay.parquet")


def test_completion_times_survive_as_lists(played, table):
    task, episodes = played
    for name, episode in episodes.items():
        stored = completion_times(select(table, name))
        assert len(stored) == 3 * 4  # every job of every episode, once
        np.testing.assert_array_equal(stored, episode.record["jct_s"].values)
        summary = task.summarise(episode.record, episode.reward, episode.valid)
        assert stored.mean() == pytest.approx(summary["jct_s"].mean())
        np.testing.assert_allclose(-episode.reward.sum(1) / 4 / 1e3, summary["jct_s"])


def test_executors_work_for_active_jobs_only_while_the_episode_lasts(played, table):
    rows = select(table, "fair", "seed 10000")
    held = held_jobs(rows)
    assert held.shape == (len(rows), 5)
    assert held.min() == -1
    assert held.max() <= 3
    assert (rows["until_s"].to_numpy() >= rows["time_s"].to_numpy()).all()


def test_the_fraction_of_busy_time_is_that_of_the_tasks():
    data = SyntheticDags(name="synthetic_dags", setting="small", seed=0)
    task = CjsTask("cjs", data, "pointer", window=5, segment=16, validation=1, test=1)
    tables, cluster = tabulate(data.profiles()), data.cluster()
    episode = Episode(cluster.mix.draw(10_000, data), tables, cluster.rules, 10_000, log_tasks=True)
    observer = Observer(episode.state, tables.links)
    while not episode.done:
        episode.decide(*fair().act(observer(episode.state))[0])
    end = float(np.max(episode.state.jobs["completed_ms"]))
    true = episode.tasks["duration_ms"].sum() / (end * cluster.executors)
    played = play(task.environment("test"), task.seeds("test"), fair())
    columns = {name: pa.array(list(played.record[name][0])) for name in ("time_s", "until_s", "job_of_executor")}
    assert _busy_share(pa.table(columns)) == pytest.approx(true, abs=0.02)


def test_the_plots_are_drawn(table, tmp_path):
    timeline(table, "seed 10000", ["fair", "fifo"], tmp_path / "gantt.png")
    assert more(table, tmp_path) == {"JCT of jobs CDF": tmp_path / "job_cdf.png"}
    assert more(table.drop_columns(["jct_s"]), tmp_path) == {}
    for name in ("gantt", "job_cdf"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
