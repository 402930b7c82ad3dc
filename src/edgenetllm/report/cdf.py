"""The distribution of a figure under several policies: a step line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgenetllm.report.style import save, style_of, tidy
from edgenetllm.report.table import FIRST, policy_order

Samples = Mapping[str, npt.NDArray[np.float64]]


def draw_cdf(samples: Samples, label: str, unit: str, what: str, higher_is_better: bool, path: Path | str) -> None:
    """Share of values up to each value. `samples`: policy -> (values,); `what` a value is of: an episode, a job."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    names = policy_order(list(samples))
    ordered = {name: np.sort(samples[name]) for name in names}
    for name, values in ordered.items():
        steps = np.arange(len(values) + 1) / len(values)
        axes.step(np.r_[values[:1], values], steps, where="post", **style_of(name, names))
    bracketed = f" [{unit}]" if unit else ""
    axes.set_xlabel(f"{label} per {what}{bracketed}, {'right' if higher_is_better else 'left'} is better")
    _limit(axes, ordered)
    axes.set_ylabel(f"share of {what}s")
    axes.set_ylim(0, 1.01)
    figure.legend(loc="outside right upper", frameon=False)
    tidy(axes)
    save(figure, path)


def _limit(axes: Axes, samples: Samples) -> None:
    """Show all of our models and what lies near; a poor baseline's long tail is cut, and the plot says so."""
    everything = np.concatenate(list(samples.values()))
    focus = np.concatenate([samples[name] for name in FIRST if name in samples] or [everything])
    reach = 0.5 * (focus.max() - focus.min())
    low, high = max(everything.min(), focus.min() - reach), min(everything.max(), focus.max() + reach)
    if high > low:
        margin = 0.03 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    outside = int(((everything < low) | (everything > high)).sum())
    if outside:
        span = f"{everything.min():.3g} to {everything.max():.3g}"
        note = f"{outside} of {len(everything)} values lie outside; all span {span}"
        axes.set_title(note, fontsize=8, color="#606060", loc="left")
