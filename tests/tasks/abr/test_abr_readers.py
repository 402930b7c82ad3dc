"""Readers name the file and the line of what they cannot read."""

import re

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.datasets import Folder
from edgenetllm.tasks.abr.data.readers import read_cooked, read_csv, read_folder, read_mahimahi
from edgenetllm.tasks.abr.data.rows import from_zero
from edgenetllm.tasks.abr.simulator.core import play


def test_cooked(tmp_path):
    (tmp_path / "a").write_text("0.0\t1.5\n5.0 2.25\n\n10.0   0\n")
    trace = read_cooked(tmp_path / "a")
    assert trace.name == "a"
    np.testing.assert_array_equal(trace.time_s, [0, 5, 10])
    np.testing.assert_array_equal(trace.mbps, [1.5, 2.25, 0])


@pytest.mark.parametrize("header", ["", "seconds,Mbps\n"])
def test_csv(tmp_path, header):
    (tmp_path / "a.csv").write_text(header + "0,1.5\n1,2\n")
    np.testing.assert_array_equal(read_csv(tmp_path / "a.csv").mbps, [1.5, 2])


def test_mahimahi_counts_packets(tmp_path):
    """Packets belong to the time before their stamps; the trace ends at the last one."""
    (tmp_path / "a").write_text("0\n10\n999\n1000\n3000\n4000\n4000\n")
    trace = read_mahimahi(tmp_path / "a")
    np.testing.assert_array_equal(trace.time_s, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(trace.mbps[1:], np.array([4, 0, 1, 2]) * 12_000 / 1e6)


def opportunities(stamps, count):
    """When mm-link delivers its first `count` packets, ms: link_queue.cc adds the last stamp at each wrap-around."""
    base, times = 0, []
    while len(times) < count:
        times += [base + stamp for stamp in stamps]
        base += stamps[-1]
    return times[:count]


@pytest.mark.parametrize("stamps", [[3], [1], [30_000, 30_001], [0, 500, 2000], list(range(30_000, 90_000, 7))])
def test_mahimahi_carries_as_much_as_mm_link(tmp_path, stamps):
    """Over whole periods, from time 0: neither the first packet nor a dead start is lost."""
    (tmp_path / "a").write_text("\n".join(map(str, stamps)) + "\n")
    trace = read_mahimahi(tmp_path / "a")
    periods = 5
    last_ms = opportunities(stamps, periods * len(stamps))[-1]
    megabits = periods * (trace.mbps[1:] * np.diff(trace.time_s)).sum()
    assert trace.time_s[0] == 0
    assert periods * trace.time_s[-1] == pytest.approx(last_ms / 1000)
    assert megabits == pytest.approx(periods * len(stamps) * 0.012)
    if stamps[0] >= 30_000:
        assert trace.mbps[trace.time_s <= 29].max() == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 1\n1 fast\n", "line 2"),
        ("0 1\n\n1\n", "line 3"),
        ("0 1\n1 nan\n", "line 2.*not finite"),
        ("0 1\n1 inf\n", "line 2.*not finite"),
        ("0 1\n1 2\n2 -0.5\n", "line 3.*negative"),
        ("0 1\n1 2\n1 2\n", "line 3.*does not advance"),
        ("0 1\n2 2\n1 2\n", "line 3.*does not advance"),
        ("-1 1\n0 2\n", "line 1.*negative"),
        ("0 1\n", "at least two lines"),
        ("", "at least two lines"),
        ("0 1\n1 0\n2 0\n", "no bandwidth"),
    ],
)
@pytest.mark.parametrize("format", ["cooked", "csv"])
def test_bad_lines_are_named(tmp_path, text, says, format):
    path = tmp_path / "bad.trace"
    path.write_text(text if format == "cooked" else text.replace(" ", ","))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{says}"):
        (read_cooked if format == "cooked" else read_csv)(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1\n2.5\n", "line 2"),
        ("1\n-2\n", "line 2"),
        ("5\n3\n", "line 2.*backwards"),
        ("\n", "is empty"),
        ("0\n0\n", "has no length"),
        ("1700000000000\n1700000000009\n", "stamps are dates"),
        ("0 4.5\n1 2.5\n", "line 1.*data.format=cooked"),
    ],
)
def test_bad_mahimahi_is_named(tmp_path, text, says):
    (tmp_path / "bad").write_text(text)
    with pytest.raises(UserError, match=f"bad.*{says}"):
        read_mahimahi(tmp_path / "bad")


def test_binary_file_is_refused(tmp_path):
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_cooked(tmp_path / "bad")


def test_folder_is_read_in_order_of_names(tmp_path):
    with pytest.raises(UserError, match="no traces"):
        read_folder(tmp_path)
    for name in ("b", "a", ".hidden", "c", "damaged"):
        (tmp_path / name).write_text("0 1\n1 1\n")
    assert [trace.name for trace in read_folder(tmp_path, skip=["damaged"])] == ["a", "b", "c"]


@pytest.mark.parametrize("origin", [0.5, 1, 50, 60, 61, 3600, 1_700_000_000])
def test_a_trace_means_the_same_wherever_its_clock_starts(tmp_path, video, origin):
    """Played for longer than it lasts, so that it starts over."""
    rng = np.random.default_rng(5)
    time_s, mbps = np.round(np.cumsum(rng.uniform(0.5, 1.5, 61)), 3), np.round(rng.uniform(0.2, 2, 61), 3)
    time_s -= time_s[0]
    played = []
    for start in (0, origin):
        (tmp_path / "a").write_text("\n".join(f"{start + t:.3f} {rate}" for t, rate in zip(time_s, mbps, strict=True)))
        trace = from_zero(read_cooked(tmp_path / "a"))
        played.append(play(trace.time_s, trace.mbps, video, np.full(48, 3), start=7))
    assert played[0].delay_ms.sum() / 1000 > 2 * time_s[-1]
    for one, other in zip(*played, strict=True):
        np.testing.assert_array_equal(one, other)


def test_own_traces_start_at_zero_and_public_ones_keep_their_clock(tmp_path):
    for part in ("train", "val", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a").write_text("55 1\n56 2\n")
    parts = Folder("folder", tmp_path, "cooked", "synthetic").splits()
    assert [trace.time_s.tolist() for trace in (*parts.train, *parts.val, *parts.test)] == [[0, 1]] * 3
    assert read_folder(tmp_path / "test")[0].time_s.tolist() == [55, 56]


def test_the_last_part_of_a_second_is_no_outage(tmp_path):
    path = tmp_path / "steady"
    path.write_text("\n".join(str(stamp) for stamp in range(10_002)))  # a packet each ms: 12 Mbps
    mbps = read_mahimahi(path).mbps
    np.testing.assert_allclose(mbps, 12, rtol=2e-3)
