"""The vectorised environment: the same as one episode at a time, honest observations, clones, the Gymnasium view."""

from __future__ import annotations

import numpy as np
import pytest

from edgenetllm.experience.rollout import play
from edgenetllm.tasks.cjs.columns import (
    DEMAND,
    JOB,
    LEFT,
    PATH,
    READY,
    REMAINING,
    ROUGH,
    SCHEDULABLE,
    SUPPLY,
)
from edgenetllm.tasks.cjs.policies.baselines import Random, fair, fifo, sjf_cp, srpt, tuned_rule, weighted_fair
from edgenetllm.tasks.cjs.policies.rollout import jct_ms
from edgenetllm.tasks.cjs.policies.tuned import load_weights
from edgenetllm.tasks.cjs.simulator.gym import CjsGym

RULES = [fifo(), fair(), weighted_fair(0.25), sjf_cp(0.4), srpt(), tuned_rule(load_weights(10))]


@pytest.mark.parametrize("rule", RULES, ids=lambda policy: policy.name)
def test_stepping_equals_the_compiled_loop(rule, cjs_task, workload, tables):
    episodes = play(cjs_task.environment("test"), cjs_task.seeds("test"), rule)
    summary = cjs_task.summarise(episodes.record, episodes.reward, episodes.valid)
    alone = jct_ms(rule, workload, tables, cjs_task.seeds("test")) / 1e3
    np.testing.assert_allclose(summary["jct_s"], alone, rtol=1e-12)
    np.testing.assert_allclose(-episodes.reward.sum(1) / 4 / 1e3, alone, rtol=1e-9)


def test_episodes_side_by_side_are_those_alone(cjs_task):
    together = play(cjs_task.environment("test"), cjs_task.seeds("test"), fair())
    for number, seed in enumerate(cjs_task.seeds("test")):
        alone = play(cjs_task.environment("test"), np.array([seed]), fair())
        steps = alone.action.shape[1]
        assert together.valid[number].sum() == steps
        np.testing.assert_array_equal(together.action[number, :steps], alone.action[0])
        np.testing.assert_array_equal(together.reward[number, :steps], alone.reward[0])


def test_observations_add_up(cjs_task):
    """Against sums over the rows and the obvious recursion over the edges."""
    environment, policy = cjs_task.environment("train"), Random(1)
    observation = environment.reset(np.arange(5))
    policy.start(5)
    seen = 0
    for _ in range(40):
        for n in range(5):
            stages, jobs, edges = (
                observation[k].values[n][: observation[k].count[n]] for k in ("stages", "jobs", "edges")
            )
            if not len(stages):
                continue
            seen += 1
            work = stages[:, REMAINING] * stages[:, ROUGH]
            of_job = stages[:, JOB].astype(int)
            np.testing.assert_allclose(np.bincount(of_job, work, len(jobs)), jobs[:, LEFT], rtol=1e-5, atol=1)
            has_parent = np.zeros(len(stages), bool)
            has_parent[edges[:, 1]] = True
            assert ((stages[:, READY] == 1) == ~has_parent).all()
            path = work.copy()
            for _ in range(len(stages)):
                for parent, child in edges:
                    path[parent] = max(path[parent], work[parent] + path[child])
            np.testing.assert_allclose(path, stages[:, PATH], rtol=1e-5, atol=1)
            assert (stages[:, DEMAND][stages[:, SCHEDULABLE] == 1] > 0).all()
            assert (jobs[:, SUPPLY] >= 0).all()
            assert 1 <= observation["committable"][n] <= 5
        observation, _, done = environment.step(policy.act(observation))
        if done.all():
            break
    assert seen > 50


def test_a_clone_goes_its_own_way(cjs_task):
    environment = cjs_task.environment("test")
    observation = environment.reset(cjs_task.seeds("test"))
    for _ in range(5):
        observation, _, _ = environment.step(fair().act(observation))
    twin = environment.clone()
    totals = []
    for other, rule in ((twin, fifo()), (environment, fair())):
        current, total, done = observation, np.zeros(4), np.zeros(4, bool)
        while not done.all():
            current, reward, done = other.step(rule.act(current))
            total += reward
        totals.append(total)
    straight = play(cjs_task.environment("test"), cjs_task.seeds("test"), fair())
    np.testing.assert_allclose(totals[1], straight.reward[:, 5:].sum(1))
    assert (totals[0] != totals[1]).any()


def test_illegal_actions_name_the_episode(cjs_task):
    environment = cjs_task.environment("test")
    environment.reset(cjs_task.seeds("test"))
    actions = np.zeros((4, 2), np.int64)
    actions[:, 1] = 1
    actions[2] = (0, 99)
    with pytest.raises(ValueError, match=r"episode 2: action \[0, 99\]"):
        environment.step(actions)
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        environment.step(np.zeros(4))


def test_the_gymnasium_view_is_one(cjs_task):
    view = CjsGym(cjs_task.environment("test"))
    observation, info = view.reset(options={"episode": 10_000})
    assert info == {"episode": 10_000}
    total, done = 0.0, False
    while not done:
        assert view.observation_space.contains(observation)
        observation, reward, done, _, _ = view.step(np.array([0, 1]))
        total += reward
    assert total < 0


def test_splits_share_no_seed(cjs_task):
    values = [set(cjs_task.seeds(split).tolist()) for split in ("val", "test")]
    assert not values[0] & values[1]
    training = cjs_task.environment("train")
    first = training.draw(training.first_seed)
    assert all(
        first != cjs_task.environment(split).draw(int(seed))
        for split in ("val", "test")
        for seed in cjs_task.seeds(split)
    )
