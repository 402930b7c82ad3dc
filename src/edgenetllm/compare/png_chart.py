"""The picture of a retention study, drawn by matplotlib from the same chart as the plots of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgenetllm.compare.charts import Chart
from edgenetllm.compare.series import DENSE, GREY, Look
from edgenetllm.plotting import save, tidy
from edgenetllm.tasks.task import Metric

MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "pentagon": "p",
    "hexagon": "h",
    "cross": "P",
    "x": "X",
    "star": "*",
    "triangle-left": "<",
}
DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 2, 3)),
}
LETTER = 0.0135  # of the span of sparsities, right of 100 %, for each letter of the longest name of a horizontal line


def draw_png(chart: Chart, title: str, metric: Metric, dense: float, path: Path | str) -> None:
    """Points are means of the metric, bars the 95 % interval of their retention, which is paired over the episodes.

    A triangle is a point beyond the axis. `dense`: the mean that the retention at the right is relative to.
    """
    # The axes, with room for names at the right.
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.subplots()
    left = chart.x_ends[0] if chart.x_ends else 0.0
    span, longest = 100 - left, max(len(line.name) for line in chart.horizontals)
    axes.set_ylim(*chart.ends)
    axes.set_xlim(left, 100 + span * (0.1 + LETTER * longest))
    # Lines with intervals, points beyond the axis, baselines, and the scale of the retention.
    for line in chart.lines:
        x, y = [point.x for point in line.points], [point.y for point in line.points]
        look = _look(line.series.look)
        low, high = zip(*(point.ends for point in line.points), strict=True)
        axes.vlines(x, low, high, color=look["color"], linewidth=1.0, zorder=3)
        axes.plot(x, y, label=line.series.name, **look)
    _triangles(axes, chart)
    _horizontals(axes, chart, span)
    _retention_axis(axes, chart, metric, dense)
    # Ticks, labels, title and legend.
    ticks = MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(left, 100)
    axes.set_xticks([tick for tick in ticks if left <= tick <= 100])
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    tidy(axes)
    beyond = len(chart.triangles())
    marks = "bars: 95 % interval of retention"
    marks += f"; triangles: {beyond} point{'' if beyond == 1 else 's'} beyond the axis" if beyond else ""
    axes.set_title(f"{title}\n{marks}", fontsize=9, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(len(handles), 4 if max(map(len, labels)) < 22 else 3)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    save(figure, path)


def _look(look: Look) -> dict[str, Any]:
    symbol, hollow = look.symbol.removesuffix("-open"), look.symbol.endswith("-open")
    return {
        "color": look.color,
        "marker": MARKERS[symbol],
        "markersize": 12 if symbol == "star" else 5.5,
        "linestyle": DASHES[look.dash],
        "linewidth": 1.6,
        "zorder": 4,
        **({"markerfacecolor": "white"} if hollow else {}),
    }


def _triangles(axes: Axes, chart: Chart) -> None:
    height = chart.ends[1] - chart.ends[0]
    for one in chart.triangles():
        inset = (0.02 + 0.035 * one.level) * height
        place = chart.ends[0] + inset if one.below else chart.ends[1] - inset
        look = _look(one.line.series.look) | {"marker": "v" if one.below else "^", "markersize": 8, "zorder": 6}
        axes.plot([one.point.x], [place], clip_on=False, **look)


def _horizontals(axes: Axes, chart: Chart, span: float) -> None:
    """A horizontal line for each baseline, with its name at the right."""
    start, bend, name = (100 + part * span for part in (0.055, 0.075, 0.082))
    for line in chart.horizontals:
        color = DENSE if line.ours else GREY
        look: dict[str, Any] = {"color": color, "linewidth": 2.0 if line.ours else 1.0, "zorder": 2}
        axes.plot([0.0, start], [line.y, line.y], linestyle="-" if line.ours else (0, (4, 2)), **look)
        axes.plot([start, bend], [line.y, line.place], **look)
        weight = "bold" if line.ours else "normal"
        axes.text(name, line.place, line.name, va="center", fontsize=8.5, color=color, fontweight=weight)


def _retention_axis(axes: Axes, chart: Chart, metric: Metric, dense: float) -> None:
    """A second axis at the right, in % of the dense mean over all training seeds; none where that is not positive."""
    higher, ends = metric.higher_is_better, chart.ends
    if min(dense, ends[1]) <= 0 or (not higher and ends[0] <= 0):
        return
    low, high = sorted(100 * (end / dense if higher else dense / end) for end in ends)
    ticks = [tick for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(low, high) if tick > 0]
    ticks = [tick for tick in ticks if low <= tick <= high]
    right = axes.twinx()
    right.set_ylim(*ends)
    places = [dense * tick / 100 if higher else dense / (tick / 100) for tick in ticks]
    right.set_yticks(places, [f"{tick:g}" for tick in ticks])
    right.set_ylabel("retention [% of dense]")
    right.spines[["top", "left"]].set_visible(False)
