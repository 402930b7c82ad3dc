"""The time that a bundle needs over a link whose bandwidth was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from edgenetllm.tasks.abr.data.traces import Trace


def shipping_times(sizes: Mapping[str, int], traces: Sequence[Trace]) -> dict[str, float | None]:
    """Name of a size in bytes -> the median over the traces of the seconds until it has arrived; None for never.

    A download begins with a trace, has the whole link, and goes on from the trace's beginning where it ends. Round trips and
    headers of packets are not counted.
    """
    times = {name: median([download_s(size, trace) for trace in traces]) for name, size in sizes.items()}
    return {name: time if np.isfinite(time) else None for name, time in times.items()}


def download_s(size: int, trace: Trace) -> float:
    """Seconds until `size` bytes have arrived; infinity over a trace that carries nothing."""
    seconds = trace.time_s - trace.time_s[0]
    megabits = np.concatenate(
        [[0.0], np.cumsum(np.diff(trace.time_s) * trace.mbps[1:])]
    )  # that have arrived at each row
    if megabits[-1] <= 0:
        return np.inf
    rounds, rest = divmod(8e-6 * size, megabits[-1])
    return float(rounds * seconds[-1] + np.interp(rest, megabits, seconds))
