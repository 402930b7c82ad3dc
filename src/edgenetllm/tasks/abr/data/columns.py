"""Which columns of a CSV are the clock and the bandwidth, and in which units: read from their names, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgenetllm.tasks.abr.data.units import RATE_UNITS, TIME_UNITS, RateUnit, TimeUnit, rate_unit, time_unit, words
from edgenetllm.reading import listed, plain

CLOCK = {
    "time", "timestamp", "timestamps", "stamp", "ts", "t", "clock", "epoch", "unix", "unixtime", "date", "datetime",
    "elapsed", "relative", "since", "start", "begin", "the", "of", "in", "measurement", "sample", "log", "utc",
}  # fmt: skip
RATE = {"throughput", "tput", "bandwidth", "bw", "bitrate", "goodput", "capacity", "datarate"}
RATE_OF = {"rate", "bit", "data", "dl", "down", "download", "downlink", "rx", "link", "transfer", "delivery"}
AMOUNT = {"rx", "dl", "down", "download", "downloaded", "downlink", "received", "recv", "delivered", "transferred",
          "n", "num", "nr", "of", "in", "interval", "since", "last", "delta", "data"}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """Typed options about the columns of a trace file; None where the file says it."""

    column: str | None = None  # name of the column with the bandwidth
    unit: str | None = None  # of that column
    time_column: str | None = None
    time_unit: TimeUnit | None = None


class Columns(NamedTuple):
    clock: int  # index of the column
    rate: int
    time_unit: TimeUnit | None  # None: dates, or a clock whose unit only its numbers can show
    unit: RateUnit


def choose(header: Sequence[str], typed: Typed) -> Columns:
    """The clock and the bandwidth among these column names.

    Raises ValueError that says what to type where a name, or its unit, could be several things or none.
    """
    clocks = [number for number, name in enumerate(header) if _is_clock(name)]
    if typed.time_column is not None:
        clock = _named(header, typed.time_column, "time_column")
    elif len(clocks) != 1:
        problem = f"{_listed(header, clocks)} could be" if clocks else f"none of {listed(header)} is called"
        raise ValueError(f"{problem} the clock: type data.time_column=NAME")
    else:
        clock = clocks[0]
    stated_time = time_unit(header[clock])
    if typed.time_unit and stated_time and typed.time_unit != stated_time:
        raise ValueError(
            f"{plain(header[clock])} is in {stated_time}, not in data.time_unit={typed.time_unit}; correct the one that is wrong"
        )
    if typed.column is None:
        rate = _only_rate(header, [n for n in range(len(header)) if n not in (*clocks, clock)], typed)
    else:
        rate = _named(header, typed.column, "column")
    return Columns(clock, rate, typed.time_unit or stated_time, _unit(header[rate], typed))


def _only_rate(header: Sequence[str], others: Sequence[int], typed: Typed) -> int:
    """The only column that is named as a bandwidth. Raises ValueError where there is none, or more than one."""
    rates = [n for n in others if _is_rate(header[n])]
    if len(rates) > 1:
        raise ValueError(f"{_listed(header, rates)} could be the bandwidth: type data.column=NAME")
    if not rates:
        names = _listed(header, others) if others else "nothing"
        raise ValueError(
            f"no column is named as a bandwidth with its unit (there is {names} besides the clock): "
            "type data.column=NAME, and data.unit=Mbps, kbps, ... where its name does not say it"
        )
    return rates[0]


def _unit(name: str, typed: Typed) -> RateUnit:
    """Unit of the chosen column: the one in its name, or the one that was typed."""
    stated = rate_unit(name)
    typed_unit = None if typed.unit is None else rate_unit(typed.unit)
    if typed_unit is None:
        if stated is None or (stated.amount and not _is_amount(stated)):
            raise ValueError(
                f"the name {plain(name)} does not say the unit of the bandwidth: type data.unit=Mbps, or another of {RATE_UNITS}"
            )
        return stated
    if stated is not None and not (stated.amount and not _is_amount(stated)) and stated[1:3] != typed_unit[1:3]:
        raise ValueError(
            f"the column {plain(name)} is in {stated.text}, not in data.unit={typed.unit}; correct the one that is wrong"
        )
    return typed_unit


def _is_clock(name: str) -> bool:
    spellings = {spelling for group in TIME_UNITS.values() for spelling in group}
    return bool(words(name)) and set(words(name)) <= CLOCK | spellings


def _is_rate(name: str) -> bool:
    unit = rate_unit(name)
    if unit is not None and (not unit.amount or _is_amount(unit)):
        return True
    spoken = set(words(name))
    return bool(spoken & RATE) or ("rate" in spoken and spoken <= RATE_OF)


def _is_amount(unit: RateUnit) -> bool:
    """True where the rest of the name leaves no doubt that it is data received, unlike `packet_size_bytes`, `total_bytes`."""
    return unit.amount and set(unit.others) <= AMOUNT


def _named(header: Sequence[str], name: str, key: str) -> int:
    matches = [number for number, other in enumerate(header) if other == name.strip()]
    if len(matches) != 1:
        count = f"{len(matches)} columns of that name" if matches else "no such column"
        raise ValueError(f"data.{key}={plain(name)}: {count}; there is {listed(header)}")
    return matches[0]


def _listed(header: Sequence[str], numbers: Sequence[int]) -> str:
    return listed(header[number] for number in numbers)
