"""Readers name the file and the line of what they cannot read."""

import re

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.readers import read_cooked, read_csv, read_folder, read_mahimahi


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
