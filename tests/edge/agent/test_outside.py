"""The guard: ordinary observations are inside, foreign ones outside, and it says why."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from agents import bundle_of, play_with
from variants import TASKS

import edgenetllm.edge as edge
from edgenetllm.edge.agent.guarded import Safety, guarded
from edgenetllm.edge.agent.outside import feature_names, features_of, outside_of
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Ragged


@pytest.fixture(scope="module", params=["fused", "history", "pointer"])
def small(request, tmp_path_factory):
    return bundle_of(request.param, tmp_path_factory.mktemp(request.param))


def guard_of(folder) -> tuple[Any, Any]:
    policy = edge.load(folder)
    return policy, outside_of(policy.extra, policy.task, policy.networks.encoder.inputs)


def test_few_decisions_of_test_episodes_are_outside(small):
    task, folder = small
    played, player = play_with(task, folder, Safety(guard=True))
    outside = np.array(player.outcomes).T[played.valid] == "outside"
    assert outside.mean() < 0.05  # of random weights, which go where no training episode was; of trained ones below 1 %
    assert player.session.events.total() == np.array(player.outcomes, bool).sum()


def test_foreign_observations_are_outside_and_it_says_what_is_odd(small):
    task, folder = small
    policy, guard = guard_of(folder)
    session = policy.start()
    observation = task.environment("test").reset(task.seeds("test")[:1])
    assert not guard(session.read(observation))
    if task.name == "abr":
        odd = {
            "throughput_mbps": observation["throughput_mbps"] * 100,
            "buffer_s": -0.01 * observation["buffer_s"],
            "delay_s": observation["delay_s"] * 1000,
            "next_sizes_mb": observation["next_sizes_mb"] * 5,
        }
    else:
        stages, jobs = observation["stages"], observation["jobs"]
        odd = {
            "stages": Ragged(stages.values * [1, 1, 1, 1, 1, 1e3, 1e3, 1e3, 1e3, 1], stages.count),
            "jobs": Ragged(jobs.values * [1, 1e4, 1e4, 1e4, 1e4, 1], jobs.count),
            "executors": np.array([1000]),
        }
    for name, value in odd.items():
        columns = session.read({**observation, name: value})
        assert guard(columns), name
        assert name in guard.why(columns) or "unlike the training data" in guard.why(columns)


def test_features_of_a_sum_are_as_many_as_their_names(small):
    task, folder = small
    policy, guard = guard_of(folder)
    columns = policy.start().read(task.environment("test").reset(task.seeds("test")[:1]))
    features = features_of(columns, guard.inputs)
    assert len(features) == len(feature_names(guard.inputs)) == len(set(guard.names))
    assert np.isfinite(features).all()
    assert 0 < guard.distance(features) < guard.most


def test_a_cluster_without_jobs_has_features_too():
    task = TASKS["pointer"]()
    observation = task.environment("test").reset(task.seeds("test")[:1])
    inputs = {"stages": edge_input(observation["stages"]), "executors": edge_input(observation["executors"])}
    columns = {"stages": observation["stages"].values[:, :0], "stages_count": np.array([0]), "executors": np.array([5])}
    assert np.isfinite(features_of(columns, inputs)).all()


def edge_input(value: Any) -> Any:
    from edgenetllm.tasks.common.edge import Input

    return Input((value.values.shape[2],), ragged=True) if isinstance(value, Ragged) else Input(integer=True)


def test_the_description_is_a_few_kilobytes(small):
    guard = read_bundle(small[1]).manifest.extra["guard"]
    assert len(json.dumps(guard)) < 16_000


def test_a_bundle_without_a_guard_says_what_to_do(tmp_path):
    task, folder = bundle_of("abr", tmp_path, guards={})
    guarded(edge.load(folder))  # nothing is asked of it
    with pytest.raises(UserError, match=r"edge\.guard=true .*export it again"):
        guarded(edge.load(folder), Safety(guard=True))
    assert task.name == "abr"


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own.pop("low"),
        lambda own: own["features"].reverse(),
        lambda own: own["mean"].append(0.0),
        lambda own: own["whiten"].pop(),
        lambda own: own.update(most=-1),
        lambda own: own.update(high=own["low"], low=own["high"]),
        lambda own: own.update(mean="far"),
    ],
)
def test_a_guard_that_does_not_fit_is_refused(small, change):
    policy, guard = guard_of(small[1])
    extra = copy.deepcopy(dict(policy.extra))
    change(extra["guard"][policy.task])
    with pytest.raises(UserError, match="does not fit its inputs"):
        outside_of(extra, policy.task, guard.inputs)
