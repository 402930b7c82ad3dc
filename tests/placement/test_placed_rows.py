"""Placements of real bundles: the guard that says where the edge is unsure, and the rows of whole replays."""

from __future__ import annotations

import numpy as np
import pytest
from agents import bundle_of

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.experience.rollout import play
from edgenetllm.stages.placed import encoder_of, unsure_of
from edgenetllm.tasks.task import Ragged


@pytest.fixture(scope="module", params=["abr", "cjs"])
def bundle(request, tmp_path_factory):
    task, folder = bundle_of(request.param, tmp_path_factory.mktemp(request.param))
    stored = read_bundle(folder)
    encoder = encoder_of(stored, task.name, folder)
    return task, stored, encoder


def test_the_guard_is_unsure_of_each_episode_for_itself(bundle):
    """Of the teacher's episodes seldom; of an observation that is a thousand times as large, in that episode alone."""
    task, stored, encoder = bundle
    unsure, seen = unsure_of(stored, task.name, encoder), []
    name = "buffer_s" if task.name == "abr" else "jobs"

    class Watched:
        def __init__(self, policy):
            self.policy = policy

        def start(self, episodes):
            self.policy.start(episodes)

        def act(self, observation):
            if len(seen) < 30:
                seen.append(unsure(observation))
                self.last = observation
            return self.policy.act(observation)

    policy = Watched(task.teacher())
    seeds = task.seeds("test")[:3]
    play(task.environment("test"), seeds, policy, limit=40)
    assert np.mean(seen) < 0.5
    value = policy.last[name]
    large = Ragged(value.values.copy(), value.count) if isinstance(value, Ragged) else value.copy()
    (large.values if isinstance(large, Ragged) else large)[1] *= 1e4
    before, after = unsure(policy.last), unsure({**policy.last, name: large})
    assert after[1]
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])


def test_the_guard_reads_episodes_that_are_over(bundle):
    task, stored, encoder = bundle
    unsure = unsure_of(stored, task.name, encoder)
    environment, policy = task.environment("test"), task.teacher()
    seeds = task.seeds("test")[:2]
    observation, done = environment.reset(seeds), np.zeros(2, bool)
    policy.start(2)
    while not done.any() if task.name == "cjs" else not done.all():
        observation, _, done = environment.step(policy.act(observation))
    if task.name == "cjs":
        assert unsure(observation).shape == (2,)
