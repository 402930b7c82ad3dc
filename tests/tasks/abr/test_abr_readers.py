"""Readers name the file and the line of what they cannot read."""

import re

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.readers import from_zero, read_cooked, read_csv, read_folder, read_mahimahi
from edgenetllm.tasks.abr.traces import Trace


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
    """3 packets in the first second, 1 in the second, none in the third, 2 in the fourth."""
    (tmp_path / "a").write_text("0\n10\n999\n1000\n3000\n3999\n")
    trace = read_mahimahi(tmp_path / "a")
    np.testing.assert_array_equal(trace.time_s, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(trace.mbps[1:], np.array([3, 1, 0, 2]) * 12_000 / 1e6)


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
    [("1\n2.5\n", "line 2"), ("1\n-2\n", "line 2"), ("5\n3\n", "line 2.*backwards"), ("\n", "is empty")],
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


def test_a_clock_that_is_a_date_starts_at_zero_and_small_offsets_stay():
    dated = Trace("t", np.array([1.7e9, 1.7e9 + 1, 1.7e9 + 2]), np.ones(3))
    np.testing.assert_array_equal(from_zero(dated).time_s, [0, 1, 2])
    public = Trace("t", np.array([4.9, 6.0]), np.ones(2))
    assert from_zero(public) is public


def test_the_last_part_of_a_second_is_no_outage(tmp_path):
    path = tmp_path / "steady"
    path.write_text("\n".join(str(stamp) for stamp in range(10_002)))  # a packet each ms: 12 Mbps
    mbps = read_mahimahi(path).mbps
    np.testing.assert_allclose(mbps, 12, rtol=2e-3)
