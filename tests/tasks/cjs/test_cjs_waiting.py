"""Decisions that take time, against a cluster in plain Python, and what must hold of any workload."""

from __future__ import annotations

import numpy as np
import pytest
from waiting_oracle import Cluster

from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Stage, tabulate
from edgenetllm.tasks.cjs.simulator.state import Rules

MOVING_MS = 1999.37
WAITS_S = (0.0, 1e-6, 0.003, 0.2, 3.7, 41.3)


def drawn_jobs(rng):
    """Jobs of the oracle: arrival, stages (tasks, ms) and edges between them."""
    jobs = []
    for arrival_ms in np.cumsum(np.r_[0, rng.exponential(9000, rng.integers(0, 6))]):
        count = int(rng.integers(1, 7))
        stages = [(int(rng.integers(1, 9)), float(rng.uniform(50, 4000))) for _ in range(count)]
        edges = [(i, j) for j in range(count) for i in range(j) if rng.random() < 0.35]
        jobs.append((float(arrival_ms), stages, edges))
    return jobs


def environment_of(jobs, executors):
    profiles = []
    for number, (_, stages, edges) in enumerate(jobs):
        made = tuple(Stage(tasks, {5: [ms]}, {5: [ms]}, {5: [ms]}) for tasks, ms in stages)
        profiles.append(Profile(f"job{number}", "test", made, tuple(edges)))
    drawn = [Job(number, arrival_ms) for number, (arrival_ms, _, _) in enumerate(jobs)]
    return CjsEnvironment(lambda seed: drawn, tabulate(profiles), Rules(executors, MOVING_MS, 0.0, sampled=False))


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_oracle(seed):
    """Random clusters, workloads, decisions and waits: every decision finds the same state, and the same jobs end at once."""
    rng = np.random.default_rng(seed)
    jobs, executors = drawn_jobs(rng), int(rng.integers(1, 9))
    environment, oracle = environment_of(jobs, executors), Cluster(jobs, executors, MOVING_MS)
    environment.reset(np.array([0]))
    waits_s = WAITS_S if seed % 3 else (0.0,)
    total, done, decisions = 0.0, False, 0
    while not done:
        meta = environment.state.meta[0]
        assert not oracle.done
        assert meta["now_ms"] == pytest.approx(oracle.now_ms, abs=1e-6)
        offered = int(environment._observation["committable"][0])
        assert (int(meta["schedulable"]), offered) == (len(oracle.listed), oracle.committable())
        index = int(rng.integers(-1 if rng.random() < 0.15 else 0, meta["schedulable"]))
        count = int(rng.integers(1, offered + 1))
        wait_s = float(rng.choice(waits_s))
        environment.wait(np.array([wait_s]))
        oracle.wait(1000 * wait_s)
        taken, reward = oracle.decide(index, count)
        _, rewards, dones = environment.step(np.array([[index, count]]))
        assert rewards[0] == pytest.approx(reward, rel=1e-9, abs=1e-4)
        assert int(meta["taken_executors"]) == (0 if taken is None else taken[1])
        total, done, decisions = total + rewards[0], bool(dones[0]), decisions + 1
        assert decisions < 5000
    assert oracle.done
    jct_ms = environment.state.jobs["completed_ms"][0] - environment.state.jobs["arrival_ms"][0]
    np.testing.assert_allclose(jct_ms, [job["done_ms"] - job["arrival_ms"] for job in oracle.jobs], rtol=0, atol=1e-5)
    assert total == pytest.approx(-jct_ms.sum(), rel=1e-9)
    commitments, stages = environment.state.commitments[0], environment.state.stages[0]
    assert (stages["committed_to"] == 0).all()
    assert (stages["moving_to"] >= 0).all()
    assert free_records(environment.state) + outstanding(environment.state) == len(commitments)


def free_records(state):
    """Length of the list of unused commitment records: none may be lost."""
    entry, count = int(state.meta[0]["free"]), 0
    while entry >= 0:
        entry, count = int(state.commitments[0][entry]["next"]), count + 1
    return count


def outstanding(state):
    count = 0
    for head in state.pools[0]["head"]:
        entry = int(head)
        while entry >= 0:
            entry, count = int(state.commitments[0][entry]["next"]), count + 1
    return count


def played(task, seconds, clone_at=None):
    """Rewards (episodes, steps) and mean completion times of Fair, each decision of which takes so many seconds."""
    environment, policy = task.environment("test"), fair()
    observation = environment.reset(task.seeds("test"))
    policy.start(len(task.seeds("test")))
    done, rewards, step = np.zeros(len(task.seeds("test")), bool), [], 0
    while not done.all():
        action = policy.act(observation)
        if seconds is not None:
            environment.wait(np.full(len(done), seconds))
        if step == clone_at:
            environment = environment.clone()
        observation, reward, done = environment.step(action)
        rewards.append(reward)
        step += 1
    jobs = environment.state.jobs
    return np.stack(rewards, 1), np.nanmean(jobs["completed_ms"] - jobs["arrival_ms"], 1)


def test_waiting_no_time_changes_no_bit_and_a_little_changes_little(cjs_task):
    never, nothing, little = (played(cjs_task, seconds) for seconds in (None, 0.0, 1e-5))
    np.testing.assert_array_equal(never[0], nothing[0])
    np.testing.assert_array_equal(never[1], nothing[1])
    np.testing.assert_allclose(little[1].mean(), never[1].mean(), rtol=0.05)


def test_a_clone_has_waited_too(cjs_task):
    np.testing.assert_array_equal(played(cjs_task, 0.4)[1], played(cjs_task, 0.4, clone_at=7)[1])


def test_the_rewards_are_all_the_time_that_jobs_spend_and_long_waits_cost(cjs_task):
    means = []
    for seconds in (0.0, 2.0, 20.0):
        rewards, jct_ms = played(cjs_task, seconds)
        np.testing.assert_allclose(rewards.sum(1), -jct_ms * cjs_task.jobs, rtol=1e-9)
        means.append(jct_ms.mean())
    assert means[0] < means[1] < means[2]


def test_one_job_by_hand():
    """Both executors idle while the first decision is waited for, then move and work; the last task ends it all."""
    environment = environment_of([(0.0, [(3, 100.0)], [])], 2)
    environment.reset(np.array([0]))
    environment.wait(np.array([0.5]))
    _, reward, done = environment.step(np.array([[0, 2]]))
    assert done[0]
    assert reward[0] == pytest.approx(-(500 + MOVING_MS + 200))
    record = environment.record()
    assert (record["time_s"][0], record["until_s"][0]) == (0.0, pytest.approx((500 + MOVING_MS + 200) / 1000))


@pytest.mark.parametrize("seconds", [[-1.0], [np.nan], [np.inf], [0.0, 0.0]])
def test_impossible_waits_are_refused(seconds):
    environment = environment_of([(0.0, [(3, 100.0)], [])], 2)
    environment.reset(np.array([0]))
    with pytest.raises(ValueError, match="finite seconds"):
        environment.wait(np.array(seconds))
