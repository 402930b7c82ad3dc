"""Rows of trace files: numbers, clocks, and what every trace must satisfy. Errors name file and line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.limits import check_rate, check_rows, within_limits
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.data.units import LATEST_S, PER_SECOND, TimeUnit, epoch_unit
from edgenetllm.reading import plain, shown

Item = TypeVar("Item")

GNETTRACK_STAMP = "%Y.%m.%d_%H.%M.%S"


class Sample(NamedTuple):
    """A row of a trace: `mbps` holds since the row above."""

    line: int  # of the file, from 1
    time_s: float
    mbps: float


def refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise UserError(f"{path}, line {line}: {reason}")


def is_number(text: str) -> bool:
    """True for a number with a decimal point, or nan or inf, which are refused with a better message later."""
    if not text.isascii() or "_" in text:  # float() would take 1_000
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(text: str) -> float:
    """A finite number. Raises ValueError that says what it is instead."""
    if not is_number(text):
        comma = " (decimal commas and thousands separators are not read)" if "," in text else ""
        raise ValueError(f"{shown(text, 40)} is not a number{comma}")
    if not math.isfinite(float(text)):
        raise ValueError(f"{plain(text, 40)} is not finite")
    return float(text)


def date_s(text: str) -> float | None:
    """Seconds since 1970 of an ISO date and time (UTC where it names no zone) or of G-NetTrack's; None for anything else."""
    for parse in (datetime.fromisoformat, lambda stamp: datetime.strptime(stamp, GNETTRACK_STAMP)):
        try:
            moment = parse(text.replace("/", "-"))
        except ValueError:
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def ticks_per_second(path: Path, line: int, first: float, unit: TimeUnit | None, guessable: bool = False) -> float:
    """Number of units of a clock in a second; it shows `first` in this row, and counts in `unit` where that is known.

    Without a unit the clock must show a date, which only one unit fits. The same goes where `unit` is only a convention
    (`guessable`) and `first` lies beyond any date in it. Raises UserError where the unit cannot be known, or be right.
    """
    dated = epoch_unit(first)
    if unit is None and dated is None:
        refuse(path, line, "nothing says what the clock counts: type data.time_unit=s, ms, us or ns")
    if unit is None or (guessable and dated is not None and first >= LATEST_S):
        return PER_SECOND[dated]  # type: ignore[index]
    if first / PER_SECOND[unit] >= LATEST_S:
        likely = f"; it looks like {dated} since 1970" if dated else ""
        refuse(path, line, f"a clock in {unit} cannot show {first:.0f}{likely}")
    return PER_SECOND[unit]


def checked(path: Path, samples: Sequence[Sample], reading: str = "", caution: str = "") -> Trace:
    """The trace of these rows: times ascend, rates are finite and not negative, something flows after the first row, and
    all lies within limits.py."""
    last: float | None = None
    for line, time, rate in samples:
        if not math.isfinite(time):
            refuse(path, line, f"the time {time} is not finite")
        check_rate(path, line, rate)
        if last is not None and time <= last:
            refuse(path, line, f"the time does not advance ({time:.12g} s after {last:.12g} s)")
        if time < 0:
            refuse(path, line, f"the time is negative ({time:g} s)")
        last = time
    if len(samples) < 2:
        raise UserError(f"{path}: a trace has at least two lines of data, this one {len(samples)}")
    if max(sample.mbps for sample in samples[1:]) <= 0:
        raise UserError(f"{path}: no bandwidth in the whole trace")
    time_s, mbps = (np.array([getattr(sample, name) for sample in samples]) for name in ("time_s", "mbps"))
    return within_limits(path, Trace(path.name, time_s, mbps, reading, caution))


def within_rows(path: Path, rows: Iterable[Item]) -> Iterator[Item]:
    """The rows, one by one. Raises UserError behind the last one that a trace may have."""
    for number, row in enumerate(rows, 1):
        check_rows(path, number)
        yield row


def from_zero(trace: Trace) -> Trace:
    """The same trace on a clock that starts at 0, to the microsecond, so that its origin does not matter."""
    start = trace.time_s[0]
    if start == 0:
        return trace
    return Trace(trace.name, np.round(trace.time_s - start, 6), trace.mbps, trace.reading, trace.caution)
