"""A line about a set of traces, and warnings where it is not plausible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edgenetllm.tasks.abr.data.splits import Splits
from edgenetllm.tasks.abr.data.traces import Trace

QUANTILES = (0.05, 0.5, 0.95)
MOST_MBPS = 10_000.0  # a median above it is no access link
LEAST_MBPS = 0.01  # nor one below it
LONGEST_S = 60.0  # between samples; a session lasts three minutes


def describe(splits: Splits) -> list[str]:
    """A line for each split that has traces, how the columns of files were read, and what is implausible or to be known."""
    lines = []
    for name, traces in _by_name(splits):
        mbps, interval_s, duration_s = _figures(traces)
        shown = " / ".join(f"{value:.3g}" for value in np.quantile(mbps, QUANTILES))
        lines.append(
            f"  {name}: {len(traces)} traces, {_duration(duration_s)}, a sample every {interval_s:.3g} s (median), "
            f"{shown} Mbps (5, 50, 95 %)"
        )
    readings = Counter(trace.reading for _, traces in _by_name(splits) for trace in traces if trace.reading)
    lines += [f"  read: {text} ({count} traces)" for text, count in readings.most_common()]
    return lines + [f"  warning: {text}" for text in warnings(splits)]


def warnings(splits: Splits) -> list[str]:
    """Doubts about the traces of each split: figures beyond plausible ranges, and what their files said."""
    texts = []
    for name, traces in _by_name(splits):
        mbps, interval_s, _ = _figures(traces)
        median = float(np.median(mbps))
        if not LEAST_MBPS <= median <= MOST_MBPS:
            texts.append(
                f"the median bandwidth of the {name} traces is {median:.3g} Mbps: is its unit right? (data=folder: data.unit)"
            )
        if interval_s > LONGEST_S:
            texts.append(
                f"the {name} traces have a sample every {interval_s:.3g} s: is the unit of their clock right? "
                "(data=folder: data.time_unit)"
            )
        cautions = Counter(trace.caution for trace in traces if trace.caution)
        texts += [f"{text} ({count} of the {len(traces)} {name} traces)" for text, count in cautions.most_common()]
    return texts


def _by_name(splits: Splits) -> list[tuple[str, list[Trace]]]:
    named = [("train", splits.train), ("validation", splits.val), ("test", splits.test)]
    return [(name, traces) for name, traces in named if traces]


def _figures(traces: Sequence[Trace]) -> tuple[np.ndarray, float, float]:
    """All bandwidths that are used, Mbps; the median interval, s; the duration of all traces together, s."""
    mbps = np.concatenate([trace.mbps[1:] for trace in traces])
    intervals_s = np.concatenate([np.diff(trace.time_s) for trace in traces])
    return mbps, float(np.median(intervals_s)), float(intervals_s.sum())


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
