"""The link against arithmetic by hand, and its messages against sending packets one by one."""

from __future__ import annotations

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.placement.link import Link, attempts, link_trace
from edgenetllm.placement.messages import action_bytes, observation_bytes, token_bytes
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.task import Ragged

# 1 Mbps for two seconds, nothing for one, 4 Mbps for one: 6 megabits in four seconds.
TRACE = link_trace(Trace("t", np.array([0.0, 2.0, 3.0, 4.0]), np.array([9.0, 1.0, 0.0, 4.0])), "here")
FLAT = link_trace(Trace("flat", np.array([0.0, 10.0]), np.array([0.0, 8.0])), "here")  # a megabyte a second


def message_s(link: Link, at_s: float, size: float, step: int = 0, up: bool = True) -> float:
    return float(link.message_s(np.array([at_s]), np.array([size]), step, up=up)[0])


def started(traces, rtt_ms, **options) -> Link:
    link = Link(traces, rtt_ms, **options)
    link.start(np.array([7]))
    link.begin_s[:] = 0.0
    return link


@pytest.mark.parametrize(
    ("at_s", "size", "seconds"),
    [
        (0.0, 125_000, 1.0),  # a megabit at 1 Mbps
        (1.0, 125_000, 1.0),
        (1.5, 125_000, 1.5 + 0.125),  # half of it, an outage of a second, the rest at 4 Mbps
        (2.2, 125_000, 0.8 + 0.25),  # begins in the outage
        (3.5, 375_000, 0.5 + 1.0),  # 2 megabits to the trace's end, one more from its beginning
        (0.0, 6 * 125_000 * 3, 12.0),  # three times the whole trace
        (9.0, 125_000, 1.0),  # a later time is a place in the trace again
    ],
)
def test_a_trace_carries_bytes_as_by_hand(at_s, size, seconds):
    assert TRACE.carry_s(at_s, size) == pytest.approx(seconds)


def test_the_bandwidth_now():
    assert [TRACE.mbps_at(at_s) for at_s in (0.5, 2.5, 3.9, 4.5)] == pytest.approx([1, 0, 4, 1])


def test_a_message_is_carried_and_then_travels_half_a_round_trip():
    link = started([TRACE], 80, overhead_bytes=1000, uplink=0.5)
    assert message_s(link, 0.0, 124_000, up=False) == pytest.approx(1.0 + 0.04)
    assert message_s(link, 0.0, 61_500, up=True) == pytest.approx(1.0 + 0.04)  # upwards half as fast
    estimate = link.estimate_s(np.array([3.5]), np.array([61_500.0]), np.array([124_000.0]))
    assert estimate[0] == pytest.approx(0.08 + 0.25 + 0.25)
    assert np.isinf(link.estimate_s(np.array([2.5]), np.array([1.0]), np.array([1.0]))[0])  # an outage


def test_attempts_are_those_of_the_unluckiest_packet():
    """The exact distribution: the largest of n geometric numbers."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for loss, packets in ((0.1, 1), (0.1, 5), (0.4, 3)):
        drawn = attempts(loss, np.full(len(u), 1460.0 * packets - 1), u)
        for most in range(1, 6):
            assert np.mean(drawn <= most) == pytest.approx((1 - loss**most) ** packets, abs=2e-5)
    np.testing.assert_array_equal(attempts(0.0, np.array([1e6, 1.0]), np.array([0.999, 0.0])), [1, 1])
    assert attempts(0.3, np.array([10.0]), np.array([0.0]))[0] == 1


def test_a_lost_packet_costs_a_round_trip_and_a_timeout_that_double():
    link, safe = (started([FLAT], 100, loss=loss, rto_ms=200) for loss in (0.3, 0.0))
    seen = set()
    for step in range(200):
        extra = message_s(link, 0.0, 1000, step) - message_s(safe, 0.0, 1000, step)
        seen.add(round(extra, 9))
    assert {0.0, 0.3, 0.9} <= seen <= {0.0, 0.3, 0.9, 2.1, 4.5, 9.3}


def test_the_seed_and_nothing_else_draws_traces_places_and_losses():
    seeds = np.arange(50)
    links = [Link([TRACE, FLAT], rtt, loss=0.2, seed=seed) for rtt, seed in ((0, 1), (100, 1), (0, 2))]
    for link in links:
        link.start(seeds)
    np.testing.assert_array_equal(links[0].begin_s, links[1].begin_s)
    assert links[0].own == links[1].own
    assert (links[0].begin_s != links[2].begin_s).all()
    assert {id(trace) for trace in links[0].own} == {id(TRACE), id(FLAT)}
    ends = np.array([trace.seconds[-1] for trace in links[0].own])
    assert (links[0].begin_s < ends).all()


def test_bytes_of_messages():
    rows = Ragged(np.zeros((2, 5, 3), np.float32), np.array([5, 2]))
    observation = {"a": np.zeros(2), "b": np.zeros((2, 6)), "rows": rows}
    assert observation_bytes(observation).tolist() == [4 * (1 + 6 + 1 + 15), 4 * (1 + 6 + 1 + 6)]
    assert observation_bytes(observation, ["b"]).tolist() == [24, 24]
    assert action_bytes(np.zeros(2, int)).tolist() == [4, 4]
    assert action_bytes(np.zeros((2, 2), int)).tolist() == [8, 8]
    assert token_bytes(2, 3, 576, 4).tolist() == [6912, 6912]


def test_a_trace_that_carries_nothing_is_refused():
    with pytest.raises(UserError, match=r"placement.traces=x: dead carries nothing"):
        link_trace(Trace("dead", np.array([0.0, 1.0]), np.array([5.0, 0.0])), "placement.traces=x")
