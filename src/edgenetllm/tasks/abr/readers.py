"""Bandwidth traces from files: cooked, Mahimahi and CSV. A bad file is named with its line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.traces import Trace

Format = Literal["cooked", "mahimahi", "csv"]
PACKET_BITS = 1500 * 8
FAR_S = 60  # public traces begin within a few seconds of 0


def read_folder(folder: Path, format: Format = "cooked", skip: Sequence[str] = ()) -> list[Trace]:
    """Every file of a folder but those of `skip`, sorted by name. Raises UserError for an empty folder or a bad file."""
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".") and path.name not in skip
    )
    if not files:
        raise UserError(f"{folder} holds no traces")
    return [READERS[format](path) for path in files]


def from_zero(trace: Trace) -> Trace:
    """A trace whose clock is a date (or anything far from zero) starts at 0: after its end it goes on at time 0."""
    return replace(trace, time_s=trace.time_s - trace.time_s[0]) if trace.time_s[0] > FAR_S else trace


def read_cooked(path: Path) -> Trace:
    """`seconds Mbps` per line, white space between (Pensieve's form)."""
    rows = ((number, line.split()) for number, line in enumerate(_lines(path), 1) if line.strip())
    return _checked(path, rows)


def read_csv(path: Path) -> Trace:
    """Two columns, seconds and Mbps, with or without a header line."""
    rows = [(number, row) for number, row in enumerate(csv.reader(_lines(path)), 1) if row]
    if rows and not _is_number(rows[0][1][0]):
        rows = rows[1:]
    return _checked(path, rows)


def read_mahimahi(path: Path, bin_s: float = 1.0) -> Trace:
    """One millisecond stamp per 1500-byte packet, ascending; turned into the mean rate of bins of `bin_s` seconds."""
    stamps: list[int] = []
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        if not text:
            continue
        if not text.isdigit():
            raise UserError(f"{path}, line {number}: {text[:40]!r} is not a whole number of milliseconds")
        if stamps and int(text) < stamps[-1]:
            raise UserError(f"{path}, line {number}: the time stamps go backwards ({text} after {stamps[-1]})")
        stamps.append(int(text))
    if not stamps:
        raise UserError(f"{path} is empty")
    end_s = (stamps[-1] - stamps[0] + 1) / 1000
    edges_s = np.append(np.arange(0, end_s, bin_s), end_s)
    if len(edges_s) > 2 and edges_s[-1] - edges_s[-2] < bin_s / 2:  # too short to be a rate of its own
        edges_s = np.delete(edges_s, -2)
    packets, _ = np.histogram((np.array(stamps) - stamps[0]) / 1000, edges_s)
    time_s = np.asarray(edges_s, np.float64)
    mbps = np.asarray(packets * PACKET_BITS / np.diff(edges_s) / 1e6, np.float64)
    return Trace(path.name, time_s, np.concatenate([mbps[:1], mbps]))


READERS = {"cooked": read_cooked, "mahimahi": read_mahimahi, "csv": read_csv}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Trace:
    """Times ascend, rates are finite and not negative, and something flows after the first row."""
    time_s: list[float] = []
    mbps: list[float] = []
    for number, row in rows:
        if len(row) < 2 or not (_is_number(row[0]) and _is_number(row[1])):
            raise UserError(f"{path}, line {number}: expected `seconds Mbps`, found {' '.join(row)[:60]!r}")
        time, rate = float(row[0]), float(row[1])
        if not (math.isfinite(time) and math.isfinite(rate)):
            raise UserError(f"{path}, line {number}: {row[0]} {row[1]} is not finite")
        if rate < 0:
            raise UserError(f"{path}, line {number}: the bandwidth is negative ({rate})")
        if time_s and time <= time_s[-1]:
            raise UserError(f"{path}, line {number}: the time does not advance ({time} after {time_s[-1]})")
        if not time_s and time < 0:
            raise UserError(f"{path}, line {number}: the time is negative ({time})")
        time_s.append(time)
        mbps.append(rate)
    if len(time_s) < 2:
        raise UserError(f"{path}: a trace has at least two lines, this one {len(time_s)}")
    if max(mbps[1:]) <= 0:
        raise UserError(f"{path}: no bandwidth in the whole trace")
    return Trace(path.name, np.array(time_s), np.array(mbps))
