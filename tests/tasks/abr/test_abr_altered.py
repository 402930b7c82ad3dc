"""Altered copies: what they change, what they leave, and that only training traces have any."""

from __future__ import annotations

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.altered import LEAST_MBPS, altered_copies, stretched, with_outages
from edgenetllm.tasks.abr.data.datasets import Public
from edgenetllm.tasks.abr.data.synthetic import generate
from edgenetllm.tasks.abr.data.traces import Trace


def test_copies_are_a_function_of_trace_and_seed():
    traces = generate(3, 120, seed=1)
    first, again = altered_copies(traces, 4, seed=2), altered_copies(traces, 4, seed=2)
    assert [copy.name for copy in first[:4]] == [f"{traces[0].name}~{number}" for number in range(4)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.mbps, other.mbps)
        np.testing.assert_array_equal(one.time_s, other.time_s)
    assert not np.array_equal(first[0].mbps, altered_copies(traces, 1, seed=3)[0].mbps)
    assert altered_copies(traces, 0, seed=2) == []


def test_stretching_scales_time_and_bandwidth_and_nothing_else():
    (trace,) = generate(1, 300, seed=1)
    changed = [stretched(trace, "x", np.random.default_rng(seed)) for seed in range(200)]
    slower = np.array([copy.time_s[-1] / trace.time_s[-1] for copy in changed])
    assert 0.7 <= slower.min() < 0.8
    assert 3.5 < slower.max() <= 4
    for copy in changed[:5]:
        np.testing.assert_allclose(copy.mbps / trace.mbps, (copy.mbps / trace.mbps)[0])
        np.testing.assert_allclose(copy.time_s[1:] / trace.time_s[1:], copy.time_s[-1] / trace.time_s[-1])


def test_outages_are_as_long_and_as_far_apart_as_was_drawn():
    steady = Trace("steady", np.arange(20_000.0), np.full(20_000, 3.0))
    shares = []
    for seed in range(30):
        copy = with_outages(steady, "x", np.random.default_rng(seed))
        np.testing.assert_array_equal(copy.time_s, steady.time_s)
        assert (copy.mbps >= LEAST_MBPS).all()
        up = np.median(copy.mbps)
        out = copy.mbps < 0.5 * up
        ends = np.flatnonzero(np.diff(out.astype(int)))
        runs = np.diff(ends)
        lengths = runs[::2] if out[ends[0] + 1] else runs[1::2]
        assert 1.4 <= lengths.mean() <= 13
        assert np.isclose(copy.mbps[~out], up).all()  # a steady link has no swings to change
        shares.append(out.mean())
    assert np.min(shares) > 0.01
    assert np.max(shares) < 0.62


class Generated(Public):
    """Folders of generated traces, so that nothing is fetched."""

    def _read(self, folder):
        return [Trace(f"{folder}-{trace.name}", trace.time_s, trace.mbps) for trace in generate(12, 60, ord(folder))]


def test_only_training_traces_are_copied(tmp_path):
    plain, more = (
        Generated("x", tmp_path, ["a", "b"], "c", validation=[3, 2], seed=0, video="video1", copies=copies).splits()
        for copies in (0, [2, 3])
    )
    assert [trace.name for trace in more.val] == [trace.name for trace in plain.val]
    assert [trace.name for trace in more.test] == [trace.name for trace in plain.test]
    names = [trace.name for trace in more.train]
    assert names[: len(plain.train)] == [trace.name for trace in plain.train]
    originals = [name.split("~")[0] for name in names[len(plain.train) :]]
    assert sorted(originals) == sorted(
        trace.name for trace in plain.train for _ in range({"a": 2, "b": 3}[trace.name[0]])
    )
    assert more.altered == len(originals)
    assert f"{len(names)} train ({more.altered} of them altered copies)" in more.describe()


def test_copies_need_one_number_for_each_folder(tmp_path):
    with pytest.raises(UserError, match=r"data.copies=\[1\]: give one number, or one for each of the 2 folders"):
        Public("x", tmp_path, ["a", "b"], "c", validation=0, seed=0, video="video1", copies=[1])
