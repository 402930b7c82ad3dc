"""Units from column names, the logs of public studies, and refusals of whatever is not understood."""

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.columns import Typed
from edgenetllm.tasks.abr.data.datasets import Folder
from edgenetllm.tasks.abr.data.readers import read
from edgenetllm.tasks.abr.data.rows import from_zero
from edgenetllm.tasks.abr.summary import warnings


def trace_of(tmp_path, text, format="csv", **typed):
    (tmp_path / "a.csv").write_bytes(text.encode())
    return from_zero(read(tmp_path / "a.csv", format, Typed(**typed)))


@pytest.mark.parametrize(
    ("header", "rows", "typed"),
    [
        ("time_ms,throughput_kbps", "0,1500\n1000,2500", {}),
        ("TimeMs,ThroughputKbps", "7000,1500\n8000,2500", {}),
        ("time (s),bandwidth (Mbit/s)", "0,1.5\n1,2.5", {}),
        ("t_us,rate_bps", "0,1500000\n1000000,2500000", {}),
        ("seconds,Gbps", "0,0.0015\n1,0.0025", {}),
        ("time_s,rx bytes/s", "0,187500\n1,312500", {}),
        ("time_s,bytes_per_s", "0,187500\n1,312500", {}),
        ("time_s,kB/s", "0,187.5\n1,312.5", {}),
        ("time_s,goodput [MB/s]", "0,0.1875\n1,0.3125", {}),
        ("time_s,throughput_kbit_s", "0,1500\n1,2500", {}),
        ("timestamp,dl_mbps", "1700000000,1.5\n1700000001,2.5", {}),
        ("timestamp_ms,dl_mbps", "1700000000000,1.5\n1700000001000,2.5", {}),
        ("epoch,dl_mbps", "1700000000250,1.5\n1700000001250,2.5", {}),
        ("date,dl_mbps", "2023-11-14T22:13:20Z,1.5\n2023-11-14T22:13:21Z,2.5", {}),
        ("time_s,dl_mbps,ul_mbps,rsrp_dbm", "0,1.5,9,-80\n1,2.5,9,-81", {"column": "dl_mbps"}),
        ("time_s,rsrp,bandwidth", "0,80,1500\n1,81,2500", {"unit": "kbps"}),
        (
            "frame,signal",
            "0,1500\n1,2500",
            {"column": "signal", "unit": "kbps", "time_column": "frame", "time_unit": "s"},
        ),
        ("time,dl_mbps", "0,1.5\n1000,2.5", {"time_unit": "ms"}),
        ("# time_ms,throughput_kbps", "0,1500\n1000,2500", {}),
        ("# a walk\ntime_ms;throughput_kbps", "0;1500\n1000;2500", {}),
        ("time_ms\tthroughput_kbps", "0\t1500\n1000\t2500", {}),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_units_come_from_the_header(tmp_path, header, rows, typed, end, mark):
    trace = trace_of(tmp_path, mark + f"{header}\n\n{rows}\n".replace("\n", end), **typed)
    np.testing.assert_allclose(trace.time_s, [0, 1], rtol=1e-12)
    np.testing.assert_allclose(trace.mbps, [1.5, 2.5], rtol=1e-12)


def test_csv_bytes_are_those_since_the_row_above(tmp_path):
    trace = trace_of(tmp_path, "time_ms,bytes\n0,5\n500,125000\n1500,125000\n")
    np.testing.assert_allclose(trace.mbps[1:], [2, 1])
    assert "bytes since the row above" in trace.reading


@pytest.mark.parametrize(
    ("text", "typed", "says"),
    [
        ("time_s,rsrp_dbm\n0,80\n1,81\n", {}, r"line 1: no column is named as a bandwidth.*data\.column=NAME"),
        ("time_s,speed\n0,80\n1,81\n", {"unit": "Mbps"}, r"line 1: no column is named as a bandwidth"),
        ("time_s,rsrp_dbm\n0,80\n1,81\n", {"column": "rsrp_dbm"}, r"does not say the unit.*data\.unit=Mbps"),
        ("time_s,dl_mbps,ul_mbps\n0,8,1\n1,8,1\n", {}, r"dl_mbps, ul_mbps could be the bandwidth"),
        ("time_s,bandwidth\n0,8\n1,9\n", {}, r"bandwidth does not say the unit"),
        ("time_s,THROUGHPUT_MBPS\n0,8\n1,9\n", {}, r"does not say the unit"),
        ("time_s,throughput_mb\n0,8\n1,9\n", {}, r"does not say the unit"),
        ("time_s,total_bytes\n0,8\n1,9\n", {}, r"no column is named as a bandwidth"),
        ("time_s,rx_bytes\n" + "".join(f"{t},{t * t}\n" for t in range(9)), {}, r"rx_bytes never falls"),
        ("time_s,dl_kbps\n0,8\n1,9\n", {"unit": "Mbps"}, r"dl_kbps is in kbps, not in data\.unit=Mbps"),
        ("time_ms,dl_kbps\n0,8\n1,9\n", {"time_unit": "s"}, r"time_ms is in ms, not in data\.time_unit=s"),
        ("time,dl_mbps\n0,8\n1,9\n", {}, r"line 2: nothing says what the clock counts.*data\.time_unit"),
        ("time_s,dl_mbps\n1700000000000,8\n1700000001000,9\n", {}, r"line 2: a clock in s cannot show.*ms since 1970"),
        ("rtt_ms,dl_mbps\n0,8\n1,9\n", {}, r"line 1: none of rtt_ms, dl_mbps is called the clock"),
        ("time_s,time_ms,dl_mbps\n0,0,8\n1,1,9\n", {}, r"time_s, time_ms could be the clock.*data\.time_column"),
        ("time_s,dl_mbps\n0,8\n1,9\n", {"column": "dl"}, r"data\.column=dl: no such column; there is time_s, dl_mbps"),
        ("time_s;dl_mbps\n0;8\n1;9,5\n", {}, r"line 3: '9,5' is not a number \(decimal commas"),
        ('time_s,dl_kbps\n0,"1,500"\n1,9\n', {}, r"line 2: '1,500' is not a number \(decimal commas"),
        ("time_s,dl_mbps\n0,1,5\n1,2,5\n", {}, r"line 2: 3 values under 2 column names"),
        ("0,1,5\n1,2,5\n", {}, r"line 1: expected two numbers"),
        ("0,1_000\n1,2\n", {}, r"line 1: expected two numbers"),
        ("0,1\n1,2\n", {"column": "dl"}, r"has no header"),
        ("a b\n0 1\n", {}, r"line 1: a single column"),
        ("time_s,dl_mbps\n0,8\n1,nan\n", {}, r"line 3: nan is not finite"),
        ("date,dl_mbps\n2023-11-14,8\nlater,9\n", {}, r"line 3: 'later' is not a date"),
        ("time_s,dl_mbps\n0,8\n1,-\n", {}, r"line 3: '-' is not a number"),
        ("Timestamp,DL_bitrate,UL_bitrate\n2019.12.16_13.40.04,1,2\n", {}, r"data\.format=gnettrack"),
    ],
)
def test_csv_that_is_not_understood_is_refused(tmp_path, text, typed, says):
    with pytest.raises(UserError, match=says):
        trace_of(tmp_path, text, **typed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1284623045 163421 59.9358 10.7885 251595 1010\n", r"line 1.*found 6.*data\.format=hsdpa"),
        ("0 1 2\n", r"line 1.*found 3.*data\.format=csv"),
        ("0,1\n1,2\n", r"line 1.*data\.format=csv"),
        ("time Mbps\n0 1\n", r"line 1.*data\.format=csv"),
        ("12\n13\n", r"line 1.*data\.format=mahimahi"),
        ("# time_ms rate_kbps\n0 1\n1000 2\n", r"line 1: the comment.*data\.time_unit=ms data\.unit=kbps"),
        ("12345678901234 1\n12345678901235 2\n", r"line 1: a clock in s cannot show"),
    ],
)
def test_cooked_that_is_not_understood_is_refused(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        trace_of(tmp_path, text, "cooked")


def test_cooked_dates_in_milliseconds_are_no_seconds(tmp_path):
    trace = trace_of(tmp_path, "# a walk at noon\n1700000000000 1.5\n1700000001500 2.5\n", "cooked")
    np.testing.assert_array_equal(trace.time_s, [0, 1.5])
    assert "in ms" in trace.reading
    typed = trace_of(tmp_path, "0 1500\n1500 2500\n", "cooked", time_unit="ms", unit="kbps")
    np.testing.assert_array_equal(typed.time_s, [0, 1.5])
    np.testing.assert_allclose(typed.mbps, [1.5, 2.5])


@pytest.mark.parametrize("scale", [1, 1000])  # Norway counts seconds since 1970, Ghent milliseconds
def test_hsdpa_is_bytes_over_milliseconds(tmp_path, scale):
    rows = [(0, 0, 1000), (1, 125_000, 1000), (3, 0, 2000), (4, 500_000, 1000)]
    lines = [f"{(1284623045 + t) * scale} {163421 + t * 1000} 59.9 10.7 {count} {ms:04}" for t, count, ms in rows]
    trace = trace_of(tmp_path, "\r\n".join(lines), "hsdpa")
    np.testing.assert_array_equal(trace.time_s, [0, 1, 3, 4])
    np.testing.assert_allclose(trace.mbps[1:], [1, 0, 4])
    assert not trace.caution


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1284623046 164421 59.9 10.7 99", "six columns"),
        ("46 164421 59.9 10.7 99 1000", "six columns"),
        ("1284623046 164421 59.9 910.7 99 1000", "six columns"),
        ("1284623046 164421 59.9 10.7 -99 1000", "six columns"),
        ("1284623046 163421 59.9 10.7 99 1000", "clock advances by 0 ms"),
        ("1284623046 163421 59.9 10.7 99 0", "0 ms since the row above"),
    ],
)
def test_bad_hsdpa_is_named(tmp_path, row, says):
    with pytest.raises(UserError, match=f"line 2: .*{says}"):
        trace_of(tmp_path, f"1284623045 163421 59.9 10.7 99 1000\n{row}\n", "hsdpa")


def test_time_that_no_hsdpa_row_covers_is_left_out_and_said(tmp_path):
    text = "".join(f"{1284623045 + t} {t * 1000} 59.9 10.7 125000 1000\n" for t in (1, 2, 40, 41))
    trace = trace_of(tmp_path, text, "hsdpa")
    np.testing.assert_array_equal(trace.time_s, [0, 1, 2, 3])
    assert "left out" in trace.caution


GNETTRACK = "Timestamp,Longitude,Latitude,Speed,RSRP,DL_bitrate,UL_bitrate,State\n"


def test_gnettrack_is_dl_bitrate_in_kbps(tmp_path):
    rows = [
        "04,1,2,9,-80,1500,7,D",
        "05,1,2,9,-80,2000,7,D",
        "05,1,2,9,-80,3000,7,D",
        "07,1,2,9,-80,-,7,D",
        "08,1,2,9,-,40,7,I",
    ]
    trace = trace_of(tmp_path, GNETTRACK + "".join(f"2019.12.16_13.40.{row}\n" for row in rows), "gnettrack")
    np.testing.assert_array_equal(trace.time_s, [0, 1, 4])
    np.testing.assert_allclose(trace.mbps, [1.5, 2.5, 0.04])
    assert "State is I" in trace.caution
    assert "left out" in trace.caution


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Timestamp,UL_bitrate\n", "line 1.*columns Timestamp and DL_bitrate"),
        (GNETTRACK + "noon,1,2,9,-80,1500,7,D\n", "line 2: 'noon' is not a time stamp"),
        (GNETTRACK + "2019.12.16_13.40.04,1,2,9,-80,x,7,D\n", "line 2: DL_bitrate: 'x' is not a number"),
        (GNETTRACK + "2019.12.16_13.40.04,1,2\n", "line 2: 3 values under 8"),
        (
            GNETTRACK + "".join(f"2019.12.16_13.40.0{t},1,2,9,-80,5,7,D\n" for t in (4, 3)),
            "line 3: the time does not advance",
        ),
    ],
)
def test_bad_gnettrack_is_named(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        trace_of(tmp_path, text, "gnettrack")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "mahimahi", "unit": "kbps"}, r"data\.unit=kbps: data\.format=mahimahi has no use for it"),
        ({"format": "cooked", "column": "x"}, r"data\.column=x: data\.format=cooked has no use for it"),
        ({"format": "csv", "unit": "furlongs"}, r"data\.unit=furlongs: there are bps, kbps"),
        ({"format": "csv", "unit": "MBPS"}, r"data\.unit=MBPS: there are bps, kbps"),
    ],
)
def test_options_without_meaning_are_refused(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        Folder(**{"name": "folder", "path": tmp_path, "video": "synthetic", **options})


@pytest.mark.shared
@pytest.mark.parametrize(
    ("case", "format", "seconds", "median"),
    [
        ("csv_kbps", "csv", 299, (2, 3)),
        ("epoch_ms", "cooked", 299, (2, 3)),
        ("hsdpa_raw", "hsdpa", 299, (1, 2)),
        ("mahimahi_one_line", "mahimahi", 0.003, (4, 4)),
        ("dead_zone_45s", "cooked", 299, (300, 400)),
    ],
)
def test_the_cases_are_read_rightly(shared, case, format, seconds, median):
    folder = shared / "cases" / "abr" / case
    if not folder.is_dir():
        pytest.skip("no cases there")
    parts = Folder("folder", folder, format, "synthetic").splits()
    assert parts.dropped == 0
    assert not warnings(parts)
    for trace in parts.test:
        assert trace.time_s[0] == 0
        assert trace.time_s[-1] == pytest.approx(seconds, rel=0.02)
    assert median[0] <= np.median(np.concatenate([trace.mbps[1:] for trace in parts.test])) <= median[1]
