"""Placements of real bundles: the guard that says where the edge is unsure, and the rows of whole replays."""

from __future__ import annotations

import numpy as np
import pytest
from agents import pool_of
from variants import TASKS, export, make

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.calibrate_guard import calibrate
from edgenetllm.edge.export import edge_inputs
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session
from edgenetllm.placement.link import Link, link_trace
from edgenetllm.placement.placements import Adaptive
from edgenetllm.placement.player import Asking, EngineTimes, PlacedPlayer
from edgenetllm.stages.placed import encoder_of, unsure_of
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.task import Ragged


@pytest.fixture(scope="module", params=["fused", "pointer"])
def bundle(request, tmp_path_factory):
    """A task, its bundle of random weights with a guard from a few episodes, and the bundle's encoder."""
    task = TASKS[request.param]()
    policy, folder = make(task), tmp_path_factory.mktemp(request.param)
    guard = calibrate(pool_of(task, task.teacher(), 3), edge_inputs(policy.networks()))
    stored = read_bundle(export(policy, folder / "bundle", guards={task.name: guard}))
    return task, stored, encoder_of(stored, task.name, folder)


def test_the_guard_is_unsure_of_each_episode_for_itself(bundle):
    """Seldom in the teacher's episodes; where an observation is a thousand times as large, in that episode alone."""
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
    """Observations of all steps until both episodes are over, one before the other in scheduling."""
    task, stored, encoder = bundle
    unsure = unsure_of(stored, task.name, encoder)
    environment, policy = task.environment("test"), task.teacher()
    observation, done, over = environment.reset(task.seeds("test")[:2]), np.zeros(2, bool), 0
    policy.start(2)
    while not done.all():
        observation, _, done = environment.step(policy.act(observation))
        if done.any() and not done.all() and over < 5:
            over += 1
            assert unsure(observation).shape == (2,)
    assert over > 0 or task.name == "abr"


def test_a_scheduler_waits_for_the_cloud(bundle):
    """Both tasks: time that decisions take is time of the simulated world, and the rewards of a schedule contain it."""
    task, _, encoder = bundle
    trace = link_trace(Trace("flat", np.array([0.0, 10.0]), np.array([0.0, 8.0])), "here")
    placement, link = Adaptive(data_dir=".", deadline_ms=2000), Link([trace], 600)
    dense, sparse = (Session(make(task), 1.0, name) for name in ("dense", "sparse"))
    decider = Asking(placement, sparse, dense, EngineTimes(1, 1), link, None, encoder.inputs)
    environment, seeds = task.environment("test"), task.seeds("test")[:2]
    player = PlacedPlayer("adaptive", decider, link, seeds)
    player.elapsed_s = environment.elapsed_s
    played = play(environment, seeds, player, wait=player.wait_s, limit=25)
    assert player.column("asked").all()
    assert (environment.elapsed_s() > player.column("seconds").sum(1)).all()
    if task.name == "cjs":
        np.testing.assert_allclose(played.reward.sum(1), -environment.state.meta["active_ms"], rtol=1e-9)
