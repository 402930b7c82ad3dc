"""The compiled simulator against the public one: decision by decision, task by task, and completion times."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.policies.baselines import fair, fifo, sjf_cp
from edgenetllm.tasks.cjs.policies.rollout import run_rule
from edgenetllm.tasks.cjs.simulator.core import Episode, play
from edgenetllm.tasks.cjs.simulator.durations import uniform
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.observation import Observer
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Stage, tabulate
from edgenetllm.tasks.cjs.simulator.settings import SETTINGS
from edgenetllm.tasks.cjs.simulator.state import Rules, new_state
from edgenetllm.tasks.randomness import mix

POLICIES = ("fifo", "fair", "random", "sjfcp")
DECISION_COLUMNS = {
    "now_ms": "t_ms", "source_job": "src_job", "source_stage": "src_stage", "committable": "committable",
    "schedulable": "n_schedulable", "stage_index": "stage_idx", "job": "job", "stage": "stage",
    "requested": "num_exec_requested", "committed": "num_exec_committed",
}  # fmt: skip
TASK_COLUMNS = {
    "start_ms": "t_start", "job": "job", "stage": "stage", "executor": "executor", "local": "n_local", "wave": "wave",
    "level": "key", "duration_ms": "duration",
}  # fmt: skip


def jobs_of(row: dict, data) -> list[Job]:
    arrivals = zip(row["query"], row["size"], row["arrival_ms"], strict=True)
    return [Job(data.index(query, size), arrival) for query, size, arrival in arrivals]


@pytest.mark.shared
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", POLICIES)
def test_decisions_and_tasks_equal_the_public_simulator(policy, seed, tpch, golden):
    with (golden / f"jobs_seed{seed}.csv").open() as file:
        jobs = [
            Job(tpch.index(int(row["query_num"]), row["query_size"]), float(row["t_arrival_ms"]))
            for row in csv.DictReader(file)
        ]
    with (golden / f"{policy}_seed{seed}_detasc_decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    actions = [(int(row["stage_idx"]), int(row["num_exec_requested"])) for row in rows]
    jct_ms, decisions, rewards = play(jobs, tpch.profiles(), 10, actions=actions, durations="mean")
    for ours, theirs in DECISION_COLUMNS.items():
        np.testing.assert_allclose(decisions[ours], [float(row[theirs]) for row in rows], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rewards, [float(row["reward_ms"]) for row in rows], rtol=1e-12, atol=1e-5)
    assert rewards.sum() == pytest.approx(-jct_ms.sum(), rel=1e-12)

    episode = Episode(jobs, tabulate(tpch.profiles()), Rules(10, sampled=False), log_tasks=True)
    for action in actions:
        episode.decide(*action)
    assert episode.done
    path = golden / f"{policy}_seed{seed}_detasc_tasks.npz"
    if path.exists():
        with np.load(path) as stored:
            for ours, theirs in TASK_COLUMNS.items():
                np.testing.assert_array_equal(episode.tasks[ours], stored[theirs])
            np.testing.assert_array_equal(episode.jct_ms, stored["jct_ms"])


@pytest.mark.shared
@pytest.mark.parametrize(("size", "executors"), [("small", 10), ("large", 50)])
def test_completion_times_of_whole_episodes_equal_the_public_simulator(size, executors, tpch, golden):
    rules = {"fifo": fifo(), "fair": fair(), "sjfcp": sjf_cp()}
    tables = tabulate(tpch.profiles())
    jobs = {row["seed"]: jobs_of(row, tpch) for row in json.loads((golden / f"jobs_{size}.json").read_text())}
    compared = 0
    for row in json.loads((golden / f"deterministic_{size}.json").read_text()):
        if row["sched"] in rules:
            rule = rules[row["sched"]]
            state = new_state([jobs[row["seed"]]], np.array([0]), tables, Rules(executors, sampled=False))
            run_rule(state, tables, rule.kind, rule.weights)
            jct_ms = state.jobs["completed_ms"][0] - state.jobs["arrival_ms"][0]
            np.testing.assert_array_equal(jct_ms, row["jct_ms"])
            assert state.meta["decisions"][0] == row["decisions"]
            compared += 1
    assert compared == 3 * (10 if size == "small" else 2)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "rule", "mean_s", "error_s"),
    [
        ("small", fair(), 446.8, 36.7),
        ("small", fifo(), 533.3, 53.1),
        ("small", fifo(1.0), 613.0, 59.7),
        ("small", sjf_cp(), 312.5, 22.3),
        ("default", fair(), 61.5, 2.3),
        ("default", fifo(), 90.4, 5.7),
        ("default", fifo(1.0), 283.6, 35.2),
        ("default", sjf_cp(), 242.8, 16.4),
    ],
)
def test_sampled_durations_have_the_published_means(setting, rule, mean_s, error_s, tpch):
    """Seeds 0 to 19 draw the published jobs, but other durations: a quarter of the standard error is far above the noise."""
    from dataclasses import replace

    from edgenetllm.tasks.cjs.policies.rollout import jct_ms

    found = jct_ms(rule, replace(tpch, setting=setting), tabulate(tpch.profiles()), np.arange(20)) / 1e3
    assert found.mean() == pytest.approx(mean_s, abs=error_s / 4)


def chain(*tasks: int) -> Profile:
    """Stages one after the other; every task takes 100 ms warm and 150 ms fresh."""
    stages = tuple(Stage(n, {5: [150]}, {5: [100]}, {5: [100]}) for n in tasks)
    return Profile("chain", "test", stages, tuple((k, k + 1) for k in range(len(tasks) - 1)))


def test_one_job_by_hand():
    """Two executors move for 2 s and do four tasks in two waves. The one that finishes first is sent ahead to the second
    stage and has to wait for it, which makes its task a fresh one; when the stage is ready it is asked about again."""
    jct_ms, decisions, rewards = play([Job(0, 0.0)], [chain(4, 1)], 2, actions=[(0, 2), (0, 1), (0, 1)])
    assert jct_ms[0] == 2000 + 150 + 100 + 150
    assert decisions["now_ms"].tolist() == [0.0, 2250.0, 2250.0]
    assert decisions["committable"].tolist() == [2, 2, 2]
    assert decisions["source_stage"].tolist() == [-1, 0, -1]
    assert rewards.tolist() == [-2250.0, 0.0, -150.0]


def test_a_stage_measured_only_warm_costs_its_warm_up():
    profile = Profile("cold", "test", (Stage(1, {}, {5: [100]}, {}),), ())
    jct_ms, _, _ = play([Job(0, 0.0)], [profile], 1, actions=[(0, 1)], moving_delay_ms=500, warmup_delay_ms=1000)
    assert jct_ms[0] == 500 + 100 + 1000


def test_idling_everything_wakes_instead_of_hanging():
    """After the last arrival nothing would ever happen again; the public simulator stops with an error there."""
    episode = Episode([Job(0, 0.0)], tabulate([chain(2)]), Rules(2, sampled=False))
    episode.decide(-1, 2)
    assert not episode.done
    episode.decide(-1, 2)  # taken as: all executors for the first stage
    assert episode.done
    assert np.isfinite(episode.jct_ms).all()


def test_durations_do_not_depend_on_the_policy(workload, tables):
    """Common random numbers: task k of a stage draws the same numbers, whichever policy schedules it and when."""
    starts = {}
    for rule in (fair(), fifo()):
        jobs = SETTINGS["small"].mix.draw(3, workload)
        episode = Episode(jobs, tables, Rules(10), seed=3, log_tasks=True)
        observer = Observer(episode.state, tables.links)
        while not episode.done:
            episode.decide(*rule.act(observer(episode.state))[0])
        tasks = episode.tasks
        order = np.lexsort((tasks["start_ms"], tasks["stage"], tasks["job"]))
        starts[rule.name] = tasks[order]
    same = starts["fair"]["level"] == starts["fifo"]["level"]
    same &= starts["fair"]["wave"] == starts["fifo"]["wave"]
    assert 0.05 < same.mean() < 1
    np.testing.assert_array_equal(starts["fair"]["duration_ms"][same], starts["fifo"]["duration_ms"][same])


def test_the_draws_are_uniform_and_differ_between_seeds_stages_and_tasks():
    seeds = mix(np.arange(10, dtype=np.uint64))
    draws = np.array([uniform(seed, a, b) for seed in seeds for a in range(20) for b in range(20)])
    assert len(np.unique(draws)) == len(draws)
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(draws.std() - 12**-0.5) < 0.01


@pytest.mark.parametrize(
    ("jobs", "executors", "message"),
    [
        ([Job(0, -1.0)], 2, r"job 0 \(chain\) arrives at -1\.0 ms"),
        ([Job(0, 5.0), Job(0, 1.0)], 2, r"job 1 \(chain\) arrives before the job above"),
        ([Job(3, 0.0)], 2, r"job 0: there is no profile 3"),
        ([], 2, "at least one job"),
        ([Job(0, 0.0)], 0, "0 executors: there must be at least 1"),
    ],
)
def test_impossible_workloads_are_named(jobs, executors, message):
    with pytest.raises(UserError, match=message):
        play(jobs, [chain(1)], executors, actions=[])


@pytest.mark.parametrize("action", [(1, 1), (-2, 1), (0, 0), (0, 3)])
def test_illegal_actions_are_refused(action):
    with pytest.raises(ValueError, match="decision 0: stage"):
        play([Job(0, 0.0)], [chain(4)], 2, actions=[action])
