"""Generated traces and the generated video."""

import numpy as np

from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.data.splits import groups
from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.simulator.qoe import BITRATES_MBPS


def test_the_seed_fixes_the_traces():
    first, again, other = (generate(3, 100, seed) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.mbps, b.mbps)
        assert not np.array_equal(a.mbps, c.mbps)


def test_traces_reach_from_3g_to_5g_and_are_legal():
    traces = generate(300, 320, 0)
    means = np.array([trace.mbps.mean() for trace in traces])
    assert means.min() < 0.6
    assert means.max() > 10
    assert ((means > 0.3) & (means < 6)).mean() > 0.5  # most of them where the choice of a bitrate matters
    for trace in traces:
        assert len(trace.time_s) == 321
        assert (np.diff(trace.time_s) == 1).all()
        assert (trace.mbps > 0).all()


def test_splits_are_disjoint():
    parts = Synthetic(name="synthetic", seed=3, seconds=320, train=30, val=10, test=10).splits()
    assert [len(parts.train), len(parts.val), len(parts.test)] == [30, 10, 10]
    traces = [*parts.train, *parts.val, *parts.test]
    assert len(set(groups(traces).tolist())) == 50
    assert len({trace.name for trace in traces}) == 50


def test_video_has_the_sizes_of_its_bitrates():
    sizes = generate_video()
    assert sizes.shape == (6, 48)
    np.testing.assert_array_equal(sizes, generate_video())
    np.testing.assert_allclose(sizes.mean(1) * 8 / 4 / 1e6, BITRATES_MBPS, rtol=0.05)
    assert (np.diff(sizes, axis=0) > 0).all()
