"""The bounds of a trace: far beyond every recorded link, and narrow enough that any file is read, and played, in seconds.

The public traces have at most 9,808 rows, last at most 5.5 hours, and carry 0.13 Mbps or more on average and at most 25 in any row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.reading import read_lines

LARGEST_FILE = 32 * 2**20  # bytes; the largest public one has 220 kB
LARGEST_PACKET_FILE = 128 * 2**20  # bytes of a file with a line for each packet: three minutes of a gigabit
MOST_ROWS = 200_000  # two days with a row every second
LONGEST_S = 30 * 86_400.0  # from the first row to the last: thirty days
SHORTEST_ROW_S = 5e-6  # a packet on a gigabit link takes 1.2e-5; clocks are kept to the microsecond
FASTEST_MBPS = 1e6  # a terabit per second, in any row
SLOWEST_MBPS = 1e-4  # on average: a packet every two minutes


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a trace file in UTF-8. Raises UserError for anything else, and for a file that is too large."""
    return read_lines(path, LARGEST_FILE)


def check_rows(path: Path, rows: int) -> None:
    """Raises UserError for more rows than a trace may have."""
    if rows > MOST_ROWS:
        raise UserError(f"{path}: more than {MOST_ROWS:,} rows; cut the trace into parts")


def check_duration(path: Path, seconds: float) -> None:
    """Raises UserError for a trace that lasts longer than any can."""
    if not seconds <= LONGEST_S:
        raise UserError(
            f"{path}: it lasts {seconds:.4g} s, more than {LONGEST_S / 86_400:g} days: is the unit of its clock right?"
        )


def check_rate(path: Path, line: int | None, mbps: float) -> None:
    """Raises UserError for a bandwidth that is no finite number from 0 to `FASTEST_MBPS`."""
    where = str(path) if line is None else f"{path}, line {line}"
    if not math.isfinite(mbps):
        raise UserError(f"{where}: the bandwidth {mbps} is not finite")
    if mbps < 0:
        raise UserError(f"{where}: the bandwidth is negative ({mbps:g} Mbps)")
    if mbps > FASTEST_MBPS:
        raise UserError(f"{where}: {mbps:.4g} Mbps, more than {FASTEST_MBPS:g}: is the unit of the bandwidth right?")


def within_limits(path: Path, trace: Trace) -> Trace:
    """The trace itself. Raises UserError unless its rows, length, rates and their mean lie within the bounds above."""
    steps = np.diff(trace.time_s)
    check_rows(path, len(trace.time_s))
    check_duration(path, float(trace.time_s[-1] - trace.time_s[0]))
    check_rate(path, None, float(trace.mbps.max()))
    if steps.min() < SHORTEST_ROW_S:
        raise UserError(
            f"{path}: a row of {steps.min():.4g} s; the shortest that is read has {SHORTEST_ROW_S:g} s: is the unit of "
            "its clock right?"
        )
    mean = float((trace.mbps[1:] * steps).sum() / steps.sum())
    if mean < SLOWEST_MBPS:
        raise UserError(
            f"{path}: no bandwidth to speak of, {mean:.2g} Mbps on average where {SLOWEST_MBPS:g} is the least: is its "
            "unit right?"
        )
    return trace
