"""Trace files and videos that ask for too much on purpose, and those that may ask for as much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contained import Limits, directed
from played import trace_plays
from test_traces import STARTS, options, write_video

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data import limits
from edgenetllm.tasks.abr.data.columns import Typed
from edgenetllm.tasks.abr.data.datasets import Folder, Synthetic
from edgenetllm.tasks.abr.data.own_video import video_of
from edgenetllm.tasks.abr.data.readers import Format, read
from edgenetllm.tasks.abr.data.rows import from_zero
from edgenetllm.tasks.abr.data.splits import divided
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.data.videos import read_video


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile before the first case: the time of a compilation is not that of a file."""
    trace_plays(Trace("a", np.arange(10.0), np.ones(10)))


HOSTILE = {
    "a stamp of 4301 digits": ("mahimahi", b"1" * 4301 + b"\n"),
    "a stamp of 19 digits": ("mahimahi", b"1\n9999999999999999999\n"),
    "three years": ("mahimahi", b"0\n100000000000\n"),
    "thirty thousand years": ("mahimahi", b"0\n1000000000000000\n"),
    "a packet in two days": ("mahimahi", b"180000000\n"),
    "a terabit": ("mahimahi", b"1\n" * 100_000),
    "1e-300 Mbps": ("cooked", b"0 1e-300\n1 1e-300\n"),
    "1e-9 Mbps behind zeros": ("cooked", b"0 0\n1 0\n2 0\n3 1e-9\n"),
    "steps of 5e-324 s": ("cooked", b"0 1\n5e-324 1\n1e-323 1\n"),
    "steps of 1e-6 s": ("cooked", b"0 1\n0.000001 1\n0.000002 1\n"),
    "1e308 Mbps": ("cooked", b"0 1\n1 1e308\n2 1\n"),
    "two years": ("cooked", b"0 1\n63000000 1\n"),
    "too many rows": ("cooked", b"".join(b"%d 1\n" % t for t in range(limits.MOST_ROWS + 1))),
    "a line without end": ("cooked", b"1" * 200_000),
    "a large file": ("cooked", b"#\n" * (limits.LARGEST_FILE // 2 + 1)),
    "nothing but zero bytes": ("cooked", bytes(100_000)),
    "a field without end": ("csv", b'time_s,dl_mbps\n0,"' + b"1" * 99_000 + b"\n" + b"1\n" * 99_000),
    "a hundred thousand columns": ("csv", b",".join(b"c%d" % n for n in range(15_000)) + b"\n1,2\n"),
    "a name with an escape": ("csv", b"time_s,\x1b[2Jdl_mbps\x07,up_mbps\n0,1,2\n1,1,2\n"),
    "a clock of no number": ("hsdpa", b"1284623045 nan 59 10 5 0\n1284623046 nan 59 10 5 1000\n"),
    "no time between rows": ("hsdpa", b"1284623045 0 59 10 5 0\n1284623046 0 59 10 5 5e-324\n"),
    "a quote without end": ("gnettrack", b'Timestamp,DL_bitrate\n"' + b"2" * 99_000 + b"\n" + b"2" * 99_000),
    "the year 9999": ("gnettrack", b"Timestamp,DL_bitrate\n9999.12.31_23.59.59,5\n0001.01.01_00.00.00,5\n"),
}  # fmt: skip


@pytest.mark.robustness
def test_directed_trace_files_are_refused_at_once():
    def attempt(case: tuple[Format, bytes], folder: Path) -> None:
        (folder / "trace").write_bytes(case[1])
        read(folder / "trace", case[0], Typed())

    directed("directed traces", HOSTILE, attempt, "refused")


BOUNDS = {
    "one packet a millisecond": ("mahimahi", b"1\n"),
    "a packet a minute": ("mahimahi", b"60000\n"),
    "a gigabit for five seconds": ("mahimahi", b"".join(b"%d\n" % (n // 83) for n in range(400_000))),
    "as many rows as may be": ("cooked", b"".join(b"%d 1\n" % t for t in range(limits.MOST_ROWS))),
    "the same bandwidth but for the end": (
        "cooked", b"".join(b"%d 1\n" % t for t in range(limits.MOST_ROWS - 5)) + b"".join(
            b"%d %d\n" % (limits.MOST_ROWS + t, t) for t in range(2, 6)),
    ),
    "as slow as may be": ("cooked", b"0 0.000101\n1 0.000101\n2 0.000101\n"),
    "as slow, in short rows": ("cooked", b"".join(b"%.6f 0.000101\n" % (t * 1e-5) for t in range(20_000))),
    "as fast as may be": ("cooked", b"0 1000000\n1 1000000\n"),
    "a month": ("cooked", b"0 1\n2592000 1\n"),
    "one row carries everything": ("cooked", b"0 0\n100000 0\n100000.00002 1000000\n200000 0\n"),
}  # fmt: skip


@pytest.mark.robustness
def test_directed_trace_files_at_the_bounds_are_read_and_played():
    """Also split from each other, which compares runs of samples."""

    def attempt(case: tuple[Format, bytes], folder: Path) -> None:
        (folder / "trace").write_bytes(case[1])
        trace = from_zero(read(folder / "trace", case[0], Typed()))
        trace_plays(trace)
        divided([trace], [trace], [Trace("b", trace.time_s, trace.mbps + 1.0)], allow_shared=True)

    directed("traces at the bounds", BOUNDS, attempt, "accepted", Limits(seconds=6.0))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("video_size_0", b"0" * 19 + b"1" + b"9" * 5000 + b"\n75000\n", "line 1: '0000"),
        ("video_size_0", "٣٠٠٠٠\n75000\n".encode(), "line 1"),
        ("video_size_0", b"75000\n75000\x1f\n", "line 2"),
        ("video_size_0", b"75000\n" * 200_000, "larger than 1 MiB"),
        ("ladder.json", b'{"chunk_s": 2, "chunk_s": 4}', "'chunk_s' stands twice"),
        ("ladder.json", b"[" * 50_000, "nested too deep"),
        ("ladder.json", b'{"bitrates_kbps": [1e308, 1e309, NaN], "chunk_s": 2}', "NaN is no number"),
        ("ladder.json", b'{"bitrates_kbps": [300, 900, ' + b"1" * 400 + b'], "chunk_s": 2}', "give at least two"),
        ("ladder.json", b'{"bitrates_kbps": [300, 900, ' + b"1" * 5000 + b'], "chunk_s": 2}', "ladder"),
        ("ladder.json", b'{"bitrates_kbps": [1e-300, 900, 2500], "chunk_s": 2}', "each from 1 to"),
        ("ladder.json", b'{"bitrates_kbps": [300, 900, 2500], "chunk_s": 1e-9}', "give seconds, from 0.1"),
    ],
)
def test_directed_videos_are_refused(tmp_path, name, data, says):
    write_video(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=says) as error:
        video_of(options(tmp_path), tmp_path)
    assert len(str(error.value)) < 600


def test_a_public_video_of_other_content_is_refused(tmp_path):
    for level in range(6):
        (tmp_path / f"video_size_{level}").write_text("9" * 25 + "\n")
    with pytest.raises(UserError, match="line 1"):
        read_video(tmp_path)


@pytest.mark.parametrize("rates", [[300.0, 1e30], [1e-300, 300.0], [300.0, float("inf")]])
def test_a_generated_video_has_bitrates_that_a_size_can_have(rates):
    with pytest.raises((UserError, ValueError), match=r"each from 1 to|less than or equal to 1000000000"):
        video_of(Synthetic("synthetic", 0, 60, 1, 1, 1, bitrates_kbps=rates), Path())


def test_a_folder_with_one_hostile_trace_names_it(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "good").write_bytes(STARTS["cooked"][0])
    (tmp_path / "val" / "bad").write_bytes(b"0 1e-300\n1 1e-300\n")
    with pytest.raises(UserError, match=r"val/bad: no bandwidth to speak of"):
        Folder("folder", tmp_path, "cooked", "synthetic").splits()
