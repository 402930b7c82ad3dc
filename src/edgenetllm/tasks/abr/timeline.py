"""One streaming session: what the network gave, what each policy asked for, and when the picture stood still."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgenetllm.plotting import policies_of, save, select, style_of, tidy

REQUIRED = ("clock_s", "bandwidth_mbps", "bitrate_mbps", "buffer_s", "rebuffer_s", "delay_s")

Column = npt.NDArray[np.float64]


def timeline(replay: pa.Table, episode: str, policies: Sequence[str], path: Path | str) -> None:
    """Three panels that share the time in seconds: bandwidth and chosen bitrates, buffers, stalls as spans per policy.

    `clock_s` is the time at which a chunk was complete; its stall ended then and lasted `rebuffer_s`.
    """
    # Three panels over a common time axis.
    everyone = policies_of(replay)
    figure = Figure(figsize=(8.0, 5.6), layout="constrained")
    heights = [3.0, 2.0, 0.3 + 0.35 * len(policies)]
    rates, buffers, stalls = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    # The bandwidth of the longest session, then each policy in all panels.
    handles: list[Line2D] = []
    played = {name: _columns(select(replay, name, episode)) for name in policies}
    longest = max(played.values(), key=lambda columns: columns["clock_s"][-1])
    _bandwidth(rates, longest)
    for row, (name, columns) in enumerate(played.items()):
        style = style_of(name, everyone)
        clock = columns["clock_s"]
        rates.step(*_held(columns, "bitrate_mbps"), where="pre", **style)
        handles += buffers.plot(clock, columns["buffer_s"], **style)
        _stalls(stalls, row, clock, columns["rebuffer_s"], style["color"])
    # Labels and limits of the axes, and the legend.
    rates.set_ylabel("Mbps")
    rates.set_ylim(bottom=0)
    buffers.set_ylabel("buffer [s]")
    buffers.set_ylim(bottom=0)
    stalls.set_yticks(range(len(policies)), policies)
    stalls.set_ylim(len(policies) - 0.4, -0.6)
    stalls.set_ylabel("stalls")
    stalls.set_xlabel("time [s]")
    stalls.set_xlim(_held(longest, "bitrate_mbps")[0][0], longest["clock_s"][-1])
    for axes in (rates, buffers, stalls):
        tidy(axes)
    handles += rates.get_lines()[:1]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, title=episode)
    figure.align_ylabels()
    save(figure, path)


def _columns(table: pa.Table) -> dict[str, Column]:
    return {name: table[name].to_numpy().astype(np.float64) for name in REQUIRED}


def _held(columns: dict[str, Column], name: str) -> tuple[Column, Column]:
    """Time and value for a step plot: a chunk's value holds from the previous chunk's arrival to its own."""
    start = columns["clock_s"][0] - columns["delay_s"][0]
    return np.r_[start, columns["clock_s"]], np.r_[columns[name][:1], columns[name]]


def _bandwidth(axes: Axes, columns: dict[str, Column]) -> None:
    clock, mbps = _held(columns, "bandwidth_mbps")
    axes.fill_between(clock, mbps, step="pre", color="#D9D9D9", linewidth=0, zorder=1)
    axes.step(clock, mbps, where="pre", color="#8C8C8C", linewidth=1.0, label="bandwidth", zorder=1)


def _stalls(axes: Axes, row: int, clock: Column, rebuffer_s: Column, color: str) -> None:
    """Spans in a lane of the policy's own, with the total written at its right end."""
    stalled = rebuffer_s > 0
    spans = list(zip(clock[stalled] - rebuffer_s[stalled], rebuffer_s[stalled], strict=True))
    axes.broken_barh(spans, (row - 0.35, 0.7), facecolors=color, edgecolors=color, linewidth=0.8)
    where = axes.get_yaxis_transform()  # x in fractions of the panel, y in lanes
    axes.text(1.01, row, f"{rebuffer_s.sum():.1f} s", transform=where, va="center", fontsize=8, color=color)
