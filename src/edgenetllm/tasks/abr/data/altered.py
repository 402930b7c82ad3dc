"""Altered copies of traces, so that a policy meets more than the recordings that it learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.data.traces import Trace

LEAST_MBPS = 1e-3  # a trace that stands still would never deliver a chunk


def altered_copies(traces: Sequence[Trace], copies: int, seed: int) -> list[Trace]:
    """`copies` of every trace, by turns stretched and with outages, a function of (traces, copies, seed)."""
    change = (stretched, with_outages)
    return [
        change[copy % 2](trace, f"{trace.name}~{copy}", np.random.default_rng([seed, number, copy]))
        for number, trace in enumerate(traces)
        for copy in range(copies)
    ]


def stretched(trace: Trace, name: str, rng: np.random.Generator) -> Trace:
    """Multiply time by 0.7 to 4 (log-uniform) and bandwidth by a log-normal factor: recordings differ most in these two."""
    time_factor, rate_factor = np.exp(rng.uniform(np.log(0.7), np.log(4))), rng.lognormal(0, 0.35)
    return Trace(name, trace.time_s * time_factor, trace.mbps * rate_factor)


def with_outages(trace: Trace, name: str, rng: np.random.Generator) -> Trace:
    """Swings raised to a power between 0.7 and 2, and outages of 1.5 to 12 s that come every 8 to 120 s on average."""
    apart_s, long_s = np.exp(rng.uniform(np.log([8, 1.5]), np.log([120, 12])))
    depth, power = rng.uniform(0.01, 0.3), rng.uniform(0.7, 2)
    mean = trace.mbps.mean()
    swings = (np.maximum(trace.mbps, LEAST_MBPS) / mean) ** power
    mbps = swings * (mean / swings.mean()) * rng.lognormal(0.2, 0.4)
    step_s = max(float(np.diff(trace.time_s).mean()), 0.1)
    out = _outages(len(mbps), min(1.0, step_s / apart_s), min(1.0, step_s / long_s), rng)
    mbps = np.where(out, mbps * depth * rng.uniform(0.5, 1.5, len(mbps)), mbps)
    return Trace(name, trace.time_s, np.maximum(mbps, LEAST_MBPS))


def _outages(rows: int, begins: float, ends: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """True where the link is out, for each row, (rows,): a two-state chain with these probabilities per row."""
    out, now = np.empty(rows, bool), False
    for row, draw in enumerate(rng.random(rows)):
        now = draw >= ends if now else draw < begins
        out[row] = now
    return out
