"""The compiled simulator against the public environment (golden cases) and against plain Python (oracle)."""

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.tasks.abr.simulator.core import play
from edgenetllm.tasks.abr.simulator.qoe import FORMS

COLUMNS = ("delay_ms", "sleep_ms", "buffer_s", "rebuffer_s", "chunk_bytes")


def golden_trace(golden, case):
    begin, end = golden["trace_offsets"][case["trace_slot"] :][:2]
    return golden["trace_time"][begin:end], golden["trace_mbps"][begin:end]


@pytest.mark.shared
def test_equals_the_public_environment(golden, golden_json):
    cases = golden_json("cases")
    assert len(cases) == 42
    for number, case in enumerate(cases):
        actions = golden[f"actions_{case['actions']}"]
        chunks = play(*golden_trace(golden, case), golden["video1_sizes"], actions, case["start_ptr"])
        for column, name in enumerate(COLUMNS):
            expected = golden["out"][number, :, column]
            np.testing.assert_allclose(getattr(chunks, name), expected, rtol=0, atol=1e-9, err_msg=f"{case} {name}")


@pytest.mark.shared
def test_reward_equals_the_public_one(golden, golden_json):
    for number, case in enumerate(golden_json("cases")):
        actions = golden[f"actions_{case['actions']}"]
        chunks = play(*golden_trace(golden, case), golden["video1_sizes"], actions, case["start_ptr"])
        reward = FORMS["lin"].reward(actions[1:], actions[:-1], chunks.rebuffer_s[1:])
        np.testing.assert_allclose(reward, golden["reward"][number, 1:], rtol=0, atol=1e-9)


@pytest.mark.shared
def test_oracle_equals_the_public_environment_too(golden, golden_json):
    for number, case in enumerate(golden_json("cases")[::6]):
        time_s, mbps = (column.tolist() for column in golden_trace(golden, case))
        actions = golden[f"actions_{case['actions']}"].tolist()
        rows = oracle.play(time_s, mbps, golden["video1_sizes"].tolist(), actions, case["start_ptr"])
        np.testing.assert_allclose(rows, golden["out"][6 * number, :, :5], rtol=0, atol=1e-9)


@st.composite
def sessions(draw):
    """Any short trace that carries data (outages included), any video, any actions."""
    rows = draw(st.integers(2, 12))
    gaps = draw(st.lists(st.floats(0.1, 20), min_size=rows, max_size=rows))
    first = draw(st.sampled_from([0.0, 1.0, 0.37]))
    rate = st.one_of(st.just(0.0), st.floats(0.05, 60))
    mbps = draw(st.lists(rate, min_size=rows, max_size=rows).filter(lambda values: max(values[1:]) > 0))
    chunks = draw(st.integers(1, 30))
    size = st.integers(10_000, 3_000_000)
    sizes = draw(st.lists(st.lists(size, min_size=chunks, max_size=chunks), min_size=6, max_size=6))
    actions = draw(st.lists(st.integers(0, 5), min_size=chunks, max_size=chunks))
    time_s = first + np.concatenate([[0.0], np.cumsum(gaps[1:])])
    return time_s, np.array(mbps), np.array(sizes), np.array(actions), draw(st.integers(1, rows - 1))


@given(sessions())
@settings(max_examples=150, deadline=None)
def test_equals_the_oracle(session):
    time_s, mbps, sizes, actions, start = session
    expected = oracle.play(time_s.tolist(), mbps.tolist(), sizes.tolist(), actions.tolist(), start)
    np.testing.assert_allclose(np.column_stack(play(*session)), expected, rtol=1e-12, atol=1e-9)


def test_a_full_buffer_sleeps_and_the_clock_goes_on():
    """At 1,000 Mbps nothing takes time but the round trip: the buffer fills up to the limit and stays there."""
    time_s, mbps = np.arange(2000.0), np.full(2000, 1000.0)
    chunks = play(time_s, mbps, np.full((6, 48), 10_000), np.zeros(48, int), 1)
    assert chunks.buffer_s.max() <= 60
    assert (chunks.sleep_ms > 0).sum() > 20
    assert chunks.rebuffer_s[1:].max() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 0}, "start"),
        ({"start": 3}, "start"),
        ({"actions": np.array([6])}, "actions"),
        ({"actions": np.zeros(3, int)}, "size table"),
        ({"mbps": np.array([5.0, 0.0, 0.0])}, "no data"),
        ({"mbps": np.ones(2)}, "one length"),
    ],
)
def test_nonsense_is_refused(change, message):
    good = {
        "time_s": np.arange(3.0),
        "mbps": np.ones(3),
        "sizes": np.full((6, 2), 1000),
        "actions": np.array([0]),
        "start": 1,
    }
    with pytest.raises(ValueError, match=message):
        play(**{**good, **change})
