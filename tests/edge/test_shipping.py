"""Download times over traces: by hand, against a slow simulation, and where traces are not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.edge.shipping import download_s, shipping_times
from edgenetllm.stages.shipping import LINKS, shipping
from edgenetllm.tasks.abr.data.traces import Trace


def trace(times: list[float], mbps: list[float]) -> Trace:
    return Trace("t", np.array(times, float), np.array(mbps, float))


def test_by_hand():
    link = trace([10, 11, 13], [99, 8, 4])  # 1 MB in the first second, 0.5 MB in each of two more
    assert download_s(500_000, link) == pytest.approx(0.5)
    assert download_s(1_500_000, link) == pytest.approx(2)
    assert download_s(2_500_000, link) == pytest.approx(3.5)  # once more from the beginning
    assert download_s(20_000_000, link) == pytest.approx(30)
    assert download_s(1, trace([0, 1], [0, 0])) == np.inf
    assert shipping_times({"a": 1_000_000}, [link, trace([0, 1], [8, 4]), trace([0, 1], [8, 0.8])]) == {"a": 2.0}
    assert shipping_times({"a": 1}, [trace([0, 1], [0, 0])]) == {"a": None}


@given(
    steps=st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 20)), min_size=1, max_size=8),
    size=st.integers(1, 5_000_000),
)
@settings(max_examples=100, deadline=None)
def test_a_slow_simulation_agrees(steps, size):
    times = np.concatenate([[0], np.cumsum([seconds for seconds, _ in steps])])
    link = trace(list(times), [0, *(mbps for _, mbps in steps)])
    if sum(seconds * mbps for seconds, mbps in steps) < 0.5:
        return
    left, passed = 8e-6 * size, 0.0
    while True:
        for seconds, mbps in steps:
            if mbps * seconds >= left - 1e-9:
                assert download_s(size, link) == pytest.approx(passed + (left / mbps if left > 1e-9 else 0), abs=1e-5)
                return
            left, passed = left - mbps * seconds, passed + seconds


def test_a_link_without_traces_says_so(tmp_path):
    folder, _ = LINKS["3G"]
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "one").write_text("0 8\n1 8\n2 8\n")
    (tmp_path / LINKS["4G"][0]).mkdir()
    (tmp_path / LINKS["4G"][0] / "bad").write_text("no log\n")
    links = shipping({"bytes": 2_000_000, "forms": {"dense int8": 1_000_000}}, tmp_path)
    assert links["3G"] == {"folder": folder, "traces": 1, "seconds": {"bundle": 2.0, "dense int8": 1.0}}
    assert [(links[link]["traces"], links[link]["seconds"]) for link in ("4G", "broadband")] == [(0, {}), (0, {})]
