"""Counts of what the agent did, and their text for Prometheus (the exposition format 0.0.4)."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
PREFIX = "edgenetllm_"
STATM = Path("/proc/self/statm")

Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """Durations by bucket; the last one is of those beyond all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total_s += seconds


@dataclass
class Metrics:
    """Counts since the start of the process, changed by one thread only."""

    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, by)
    fallbacks: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, reason)
    seconds: dict[str, Histogram] = field(default_factory=dict)  # task -> from a request that is read to its answer
    opened: Counter[str] = field(default_factory=Counter)  # by task
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, closed or expired)
    refused: Counter[int] = field(default_factory=Counter)  # by status

    def decided(self, task: str, by: str, reason: str | None, seconds: float) -> None:
        """Count a decision, which took so long with its wait for those of other sessions."""
        self.decisions[task, by] += 1
        if reason is not None:
            self.fallbacks[task, reason] += 1
        self.seconds.setdefault(task, Histogram()).add(seconds)

    def text(self, sessions: Mapping[str, int], lost: int) -> str:
        """The exposition; `sessions` are those that are open, by task, `lost` the decisions that the log lacks."""
        return "\n".join([*self._lines(sessions, lost), ""])

    def _lines(self, sessions: Mapping[str, int], lost: int) -> Iterator[str]:
        yield from _family("decisions_total", "counter", "Decisions by who took them: model or fallback.")
        for (task, by), count in sorted(self.decisions.items()):
            yield _sample("decisions_total", (("task", task), ("by", by)), count)
        yield from _family(
            "fallbacks_total", "counter", "Decisions that were handed to the fall-back policy, by reason."
        )
        for (task, reason), count in sorted(self.fallbacks.items()):
            yield _sample("fallbacks_total", (("task", task), ("reason", reason)), count)
        yield from _family("decision_seconds", "histogram", "From a request that is read to its answer.")
        for task, histogram in sorted(self.seconds.items()):
            yield from _histogram("decision_seconds", task, histogram)
        yield from _family("sessions_open", "gauge", "Sessions that are open.")
        for task, count in sorted(sessions.items()):
            yield _sample("sessions_open", (("task", task),), count)
        yield from _family("sessions_opened_total", "counter", "Sessions that were opened.")
        for task, count in sorted(self.opened.items()):
            yield _sample("sessions_opened_total", (("task", task),), count)
        yield from _family("sessions_ended_total", "counter", "Sessions that ended: closed by the client, or expired.")
        for (task, how), count in sorted(self.ended.items()):
            yield _sample("sessions_ended_total", (("task", task), ("how", how)), count)
        yield from _family("refused_total", "counter", "Requests that were refused, by status.")
        for status, count in sorted(self.refused.items()):
            yield _sample("refused_total", (("status", str(status)),), count)
        yield from _family("log_lost_total", "counter", "Decisions that could not be written to the decision log.")
        yield _sample("log_lost_total", (), lost)
        if STATM.exists():  # Linux
            yield "# HELP process_resident_memory_bytes Resident memory size in bytes."
            yield "# TYPE process_resident_memory_bytes gauge"
            yield f"process_resident_memory_bytes {resident_bytes()}"


def resident_bytes() -> int:
    """Resident memory of this process, on Linux."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{PREFIX}{name}{{{inside}}} {value}" if inside else f"{PREFIX}{name} {value}"


def _histogram(name: str, task: str, histogram: Histogram) -> Iterator[str]:
    running = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        running += count
        yield _sample(f"{name}_bucket", (("task", task), ("le", bound)), running)
    yield _sample(f"{name}_sum", (("task", task),), histogram.total_s)
    yield _sample(f"{name}_count", (("task", task),), running)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
