"""Decisions that take the time of their placement, on the tiny model: costs, delays, and what they do to the task."""

from __future__ import annotations

import numpy as np
import pytest
from small import ARCHITECTURES, make_policy, make_task

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session
from edgenetllm.placement.link import Link, link_trace
from edgenetllm.placement.placements import Adaptive, Cloud, Edge, Placement, Split
from edgenetllm.placement.player import Asking, AtEdge, EngineTimes, InCloud, PlacedPlayer
from edgenetllm.tasks.abr.data.traces import Trace

FLAT = link_trace(Trace("flat", np.array([0.0, 10.0]), np.array([0.0, 8.0])), "here")  # a megabyte a second
TIMES = EngineTimes(edge_ms=2.0, cloud_ms=5.0)
WIDTH = 32


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def sessions(task):
    """Two different models: of the cloud and of the edge."""
    dense, sparse = (make_policy(task, ARCHITECTURES["llama"], seed) for seed in (0, 5))
    return Session(dense, 50.0, "dense"), Session(sparse, 50.0, "sparse")


def played(task, decider, link):
    environment, seeds = task.environment("test"), task.seeds("test")
    player = PlacedPlayer("here", decider, link, seeds)
    player.elapsed_s = environment.elapsed_s
    return play(environment, seeds, player, wait=player.wait_s, limit=12), player


def test_at_the_edge_a_decision_takes_the_engines_time_and_no_bytes(task, sessions):
    episodes, player = played(task, AtEdge(sessions[1], TIMES), None)
    assert (player.column("seconds") == 0.002).all()
    assert not player.column("up_bytes").any()
    environment = task.environment("test")
    environment.reset(task.seeds("test"))
    for step in range(episodes.action.shape[1]):
        environment.wait(np.full(8, 0.002))
        assert environment.step(episodes.action[:, step])[1] == pytest.approx(episodes.reward[:, step])


def test_in_the_cloud_observations_go_up_and_actions_come_down(task, sessions):
    placement, link = Cloud(data_dir=".", rtt_ms=100, overhead_bytes=0), Link([FLAT], 100)
    _, player = played(task, InCloud(placement, sessions[0], TIMES, link, ["buffer_s", "next_sizes_mb"]), link)
    up = player.column("up_bytes")
    assert (up[:, 0] == 28).all()
    assert (up[:, 1:] == 32).all()  # with the reward of the decision before
    assert (player.column("down_bytes") == 4).all()
    assert player.column("seconds")[:, 1:] == pytest.approx(0.1 + 0.005 + 36e-6)


def test_split_tokens_go_up_and_a_hidden_state_comes_down(task, sessions):
    placement, link = Split(data_dir=".", rtt_ms=100), Link([FLAT], 100, overhead_bytes=10)
    _, player = played(task, InCloud(placement, sessions[0], TIMES, link, None), link)
    up, down = player.column("up_bytes"), player.column("down_bytes")
    assert (up[:, 0] == 2 * WIDTH * 4 + 10).all()
    assert (up[:, 1:] == 3 * WIDTH * 4 + 10).all()
    assert (down == WIDTH * 4 + 10).all()
    assert player.column("seconds")[:, 1:] == pytest.approx(0.105 + 1e-6 * (4 * WIDTH * 4 + 20))


def test_without_delay_a_placed_model_plays_as_ever(task, sessions):
    """A link without round trip or bytes, an engine without time: the same actions and rewards to the bit."""
    free = Link([link_trace(Trace("fast", np.array([0.0, 1.0]), np.array([0.0, 1e30])), "here")], 0)
    placement = Cloud(data_dir=".", rtt_ms=0, overhead_bytes=0)
    episodes, _ = played(task, InCloud(placement, sessions[0], EngineTimes(0, 0), free, None), free)
    now = play(task.environment("test"), task.seeds("test"), sessions[0], limit=12)
    np.testing.assert_array_equal(episodes.action, now.action)
    np.testing.assert_allclose(episodes.reward, now.reward, rtol=0, atol=1e-9)


def adaptive(task, sessions, unsure, *, rtt_ms=50.0, deadline_ms=300.0, loss=0.0, bandwidth=8.0):
    trace = link_trace(Trace("flat", np.array([0.0, 10.0]), np.array([0.0, bandwidth])), "here")
    placement, link = Adaptive(data_dir=".", deadline_ms=deadline_ms), Link([trace], rtt_ms, loss=loss)
    dense, sparse = sessions
    return played(task, Asking(placement, sparse, dense, TIMES, link, unsure, None), link)


def test_adaptive_asks_only_where_it_is_unsure_and_plays_the_answer(task, sessions):
    alone = {one.name: play(task.environment("test"), task.seeds("test"), one, limit=1) for one in sessions}
    never, player = adaptive(task, sessions, lambda observation: np.zeros(8, bool))
    np.testing.assert_array_equal(never.action[:, 0], alone["sparse"].action[:, 0])
    assert not player.column("up_bytes").any()
    assert (player.column("seconds") == 0.002).all()
    always, player = adaptive(task, sessions, None)
    np.testing.assert_array_equal(always.action[:, 0], alone["dense"].action[:, 0])
    assert player.column("asked").all()
    assert not player.column("late").any()
    assert player.column("seconds")[:, 0] == pytest.approx(0.002 + 0.05 + 0.005, abs=1e-3)


def test_what_the_cloud_was_not_told_is_sent_when_it_is_asked(task, sessions):
    """Asked at every third decision: observations of three, with two actions and rewards between them."""
    steps = iter(range(1000))
    _, player = adaptive(task, sessions, lambda observation: np.full(8, next(steps) % 3 == 2))
    up, asked = player.column("up_bytes"), player.column("asked")
    one = 4 * (1 + 1 + 1 + 1 + 1 + 6 + 1 + 1 + 1 + 8 + 8)
    assert asked[0, :6].tolist() == [0, 0, 1, 0, 0, 1]
    assert up[0, 2] == 3 * one + 2 * 8
    assert up[0, 5] == 3 * one + 2 * 8 + 4  # the action before them was the cloud's own


def test_both_models_know_the_action_that_was_taken(task, sessions):
    """A bundle whose every decision is the cloud's has the cloud's actions in its context."""
    always, _ = adaptive(task, sessions, None)
    for session in sessions:
        np.testing.assert_array_equal(session.before[0][:, 0].numpy(), always.action[:, -1])


def test_a_link_that_does_not_allow_it_is_not_asked_and_a_late_answer_not_waited_for(task, sessions):
    _, far = adaptive(task, sessions, None, rtt_ms=400)
    _, slow = adaptive(task, sessions, None, bandwidth=1e-3)
    assert not far.column("asked").any()
    assert not slow.column("asked").any()
    _, lossy = adaptive(task, sessions, None, rtt_ms=100, loss=0.4)
    late = lossy.column("late").astype(bool)
    assert 0.2 < late.mean() < 0.9
    assert lossy.column("seconds")[late] == pytest.approx(0.302)
    assert (lossy.column("seconds") <= 0.302 + 1e-9).all()


def test_options_that_make_no_sense_are_refused(tmp_path):
    for options, message in (
        ({"rtt_ms": [50, 50]}, "name each round trip time once"),
        ({"rtt_ms": [100, 100.00000000001]}, "name each round trip time once"),
        ({"name": "sparse"}, "should be 'cloud'"),
        ({"rtt_ms": []}, "at least 1"),
        ({"rtt_ms": -1}, "greater than or equal to 0"),
        ({"loss": 0.6}, "less than or equal to 0.5"),
        ({"uplink": 0}, "greater than or equal to 0.001"),
        ({"speed": 3}, "Unexpected keyword"),
    ):
        with pytest.raises(ValueError, match=message):
            Cloud(data_dir=tmp_path, **options)
    with pytest.raises(UserError, match=r"placement.traces=nowhere: there is no folder .* there are norway, fcc"):
        Cloud(data_dir=tmp_path, traces="nowhere").read()


def test_rows_and_links_of_placements(tmp_path):
    assert (Placement().rtts_ms, Placement().fingerprint()) == ([], None)
    assert [Edge().row(rtt) for rtt in Edge().rtts_ms] == ["edge"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one").write_text("0 1\n1 2\n2 3\n")
    cloud = Cloud(data_dir=tmp_path, traces="mine", rtt_ms=12.5)
    assert [cloud.row(rtt) for rtt in cloud.rtts_ms] == ["cloud_12.5ms"]
    assert cloud.read()[0].megabits.tolist() == [0, 2, 5]
    before = cloud.fingerprint()
    (tmp_path / "mine" / "one").write_text("0 1\n1 2\n2 4\n")
    assert cloud.fingerprint() != before
