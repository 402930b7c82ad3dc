"""Units of time and of bandwidth, as people write them in column names."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

TimeUnit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
TIME_UNITS: dict[TimeUnit, tuple[str, ...]] = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds"),
    "us": ("us", "usec", "usecs", "micros", "microsecond", "microseconds"),
    "ns": ("ns", "nsec", "nsecs", "nanos", "nanosecond", "nanoseconds"),
}
RATE_UNITS = "bps, kbps, Mbps, Gbps, bytes/s, kB/s, MB/s, or bytes, kB, MB for what came since the row above"
LATEST_S = 1e11  # seconds since 1970 reach this in the year 5138
EPOCHS: tuple[tuple[TimeUnit, float], ...] = (("s", 1e9), ("ms", 1e12), ("us", 1e15), ("ns", 1e18))  # 2001 to 2286

_THOUSANDS = {"": 0, "k": 1, "m": 2, "g": 3, "kilo": 1, "mega": 2, "giga": 3, "kibi": 1, "mebi": 2, "gibi": 3}
_UNIT = re.compile(
    r"(?<![\w/])"
    r"(?P<prefix>(?:kilo|mega|giga|kibi|mebi|gibi) ?|[kmg]i?)?"
    r"(?P<kind>bits?|bytes?|octets?|b)"
    r"(?P<per>ps| ?/ ?s(?:ec(?:onds?)?)?| per s(?:ec(?:onds?)?)?| s(?:ec)?)?"
    r"(?![\w/])",
    re.IGNORECASE,
)


class RateUnit(NamedTuple):
    """A unit of bandwidth, or of an amount that came since the row above."""

    text: str
    megabits: float  # in one
    amount: bool  # not per second
    others: tuple[str, ...]  # the other words of the name, in lower case


def words(name: str) -> list[str]:
    """The words of a column name in lower case: `dlThroughput_kbps` is dl, throughput, kbps."""
    return _spaced(name).lower().split()


def time_unit(name: str) -> TimeUnit | None:
    """The unit of time that a column name states, or None where it states none or several."""
    stated = {unit for unit, spellings in TIME_UNITS.items() if set(spellings) & set(words(name))}
    return stated.pop() if len(stated) == 1 else None


def rate_unit(name: str) -> RateUnit | None:
    """The unit of bandwidth, or of an amount of data, that a column name states; None where it is missing or unclear.

    A small b is bits and a large B bytes, as in kbps and kB/s. `MBPS`, all capitals, could be either and is unclear, and so
    is an amount in b, as in `mb`. Prefixes are powers of 1000, with an i (KiB) of 1024.
    """
    spaced = _spaced(name)
    matches = list(_UNIT.finditer(spaced))
    if len(matches) != 1:
        return None
    text = matches[0].group()
    prefix, kind, per = (matches[0].group(field) or "" for field in ("prefix", "kind", "per"))
    prefix = prefix.strip()
    if len(kind) == 1:
        large = kind == "B"
        if (not per and (not large or not prefix)) or (large and (per.isupper() or prefix in ("m", "g"))):
            return None
    bits = 1 if kind == "b" or kind.lower().startswith("bit") else 8
    binary = len(prefix) == 2 or prefix.lower().endswith("bi")
    power = _THOUSANDS[prefix.lower().removesuffix("i") if len(prefix) == 2 else prefix.lower()]
    others = tuple(_UNIT.sub(" ", spaced).lower().split())
    return RateUnit(text, bits * float(1024 if binary else 1000) ** power / 1e6, not per, others)


def epoch_unit(value: float) -> TimeUnit | None:
    """The unit in which a clock shows a date between 2001 and 2286, or None where it is no such date in any unit."""
    return next((unit for unit, start in EPOCHS if start <= value < 10 * start), None)


def _spaced(name: str) -> str:
    """Words apart by single spaces; `throughputKbps` is split, `kBps` and `KiB` are not."""
    text = name.replace("µ", "u").replace("μ", "u")
    text = re.sub(r"(?<=[a-z]{2})(?<![kmgi](?=B))(?=[A-Z])", " ", text)
    text = re.sub(r"(?<=[a-z])(?<![kmgi](?=B))(?=[A-Z][a-z]{2})", " ", text)
    return " ".join(re.sub(r"[^\w/]|_", " ", text).split())
