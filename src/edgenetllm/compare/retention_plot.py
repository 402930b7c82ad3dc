"""The plot of a retention study: the metric over sparsity, a line per method, between dense model, control and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgenetllm.compare.retention_study import Cell, Reference, Study
from edgenetllm.compare.retention_table import named, series
from edgenetllm.report.style import BASELINES, OURS, save, tidy

COLORS = (OURS["sparse"], *BASELINES)  # of the methods; dense has its own
MARKERS = ("o", "s", "D", "P", "X", "p", "d", "h")  # no triangles: they are the arrows at the edge
CONTROL = "#202020"
LINE = "#9A9A9A"  # of a baseline
COLLAPSED = 0.6  # retention below which a point does not stretch the axis
LETTER = 0.0135  # of the span of sparsities, right of 100 %, for each letter of the longest name of a horizontal line
GAP = 0.045  # of the height, between two of these names

Limits = tuple[float, float]


def draw_study(study: Study, path: Path | str) -> None:
    """Points are means of the metric, shades the 95 % interval of their retention, which is paired over the episodes.

    Recovery is dashed and hollow in its method's colour. A point beyond the axis is an arrow at its edge; of the baselines
    only those inside it are shown.
    """
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.subplots()
    metric = study.metric
    ends = limits(study)
    left = max(0.0, 100 * min([cell.sparsity for cell in study.cells] or [0.5]) - 4)
    span = 100 - left
    axes.set_ylim(*ends)
    inside = _inside(study, ends)
    axes.set_xlim(left, 100 + span * (0.08 + LETTER * max(len(other.name) for other in inside)))
    methods = list(dict.fromkeys((cell.method, cell.variant) for cell in study.cells))
    aside = _aside(study, ends)
    for name, cells in series(study).items():
        number = methods.index((cells[0].method, cells[0].variant))
        look = _look(COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)], cells[0].recovery)
        places = [100 * cell.sparsity + 0.015 * span * aside.get((name, cell.sparsity), 0.0) for cell in cells]
        _line(axes, cells, look | {"label": name}, metric.higher_is_better, places[0] if len(cells) == 1 else None)
        _arrows(axes, [(x, cell.metric.mean) for x, cell in zip(places, cells, strict=True)], ends, look)
    for place, cell in enumerate(study.controls):
        look = _look(CONTROL, "*", cell.recovery) | {"markersize": 12, "linestyle": ""}
        x = 100 + 0.02 * span * (place - (len(study.controls) - 1) / 2)
        _line(axes, [cell], look | {"label": named(None, cell.recovery, cell.variant)}, metric.higher_is_better, x)
        _arrows(axes, [(x, cell.metric.mean)], ends, look)
    _horizontals(axes, inside, ends, span)
    _retention_axis(axes, study, ends)
    ticks = MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(left, 100)
    axes.set_xticks([tick for tick in ticks if left <= tick <= 100])
    axes.set_xlabel("sparsity of the backbone [%]")
    unit = f" [{metric.unit}]" if metric.unit else ""
    axes.set_ylabel(f"{metric.label}{unit}, {'higher' if metric.higher_is_better else 'lower'} is better")
    tidy(axes)
    shown = [cell.metric.mean for cell in (*study.cells, *study.controls)]
    beyond = sum(not ends[0] <= mean <= ends[1] for mean in shown)
    how = f"mean over {study.episodes} test episodes and {_seeds(study)}"
    marks = "shaded: 95 % interval of retention"
    marks += f"; triangles: {beyond} point{'' if beyond == 1 else 's'} beyond the axis" if beyond else ""
    axes.set_title(f"{study.task} on {study.data}, {study.model}: {how}\n{marks}", fontsize=9, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(len(handles), 4 if max(map(len, labels)) < 22 else 3)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    save(figure, path)


def limits(study: Study) -> Limits:
    """Ends of the metric's axis: all that has not collapsed, with its interval, the dense model, and near baselines."""
    higher = study.metric.higher_is_better
    sign = 1 if higher else -1
    dense = study.references[0].metric
    worst = dense.mean - sign * 3 * (dense.ci95[1] - dense.ci95[0])  # where a ratio says nothing
    if dense.mean > 0:
        worst = dense.mean * COLLAPSED if higher else dense.mean / COLLAPSED
    points = [dense.mean]
    for cell in (*study.cells, *study.controls):
        if sign * (cell.metric.mean - worst) >= 0:
            points += [cell.metric.mean, *(end for end in band(cell, higher) if sign * (end - worst) >= 0)]
    low, high = min(points), max(points)
    reach = max(0.4 * (high - low), 0.02 * abs(dense.mean))
    near = [other.metric.mean for other in study.references[1:] if low - reach <= other.metric.mean <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def band(cell: Cell, higher_is_better: bool) -> Limits:
    """The retention's interval in units of the metric, around the cell's mean; without a ratio the metric's own interval."""
    if cell.retention is None or 0 in (cell.retention.mean, *cell.retention.ci95):
        return cell.metric.ci95
    if higher_is_better:
        dense = cell.metric.mean / cell.retention.mean
        return dense * cell.retention.ci95[0], dense * cell.retention.ci95[1]
    dense = cell.metric.mean * cell.retention.mean
    return dense / cell.retention.ci95[1], dense / cell.retention.ci95[0]


def _aside(study: Study, ends: Limits) -> dict[tuple[str, float], float]:
    """Places to step aside, by series and sparsity: single points and arrows at one sparsity would hide each other."""
    crowd: dict[float, list[str]] = {}
    for name, cells in series(study).items():
        for cell in cells:
            if len(cells) == 1 or not ends[0] <= cell.metric.mean <= ends[1]:
                crowd.setdefault(cell.sparsity, []).append(name)
    return {
        (name, sparsity): place - (len(names) - 1) / 2
        for sparsity, names in crowd.items()
        for place, name in enumerate(names)
    }


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places of labels moved apart to `gap`, as little as needed and, where there is room, within the ends."""
    moved = list(places)
    for number in range(1, len(moved)):
        moved[number] = max(moved[number], moved[number - 1] + gap)
    ceiling = high
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], ceiling)
        ceiling = moved[number] - gap
    shift = max(0.0, low - moved[0]) if moved else 0.0
    return [place + shift for place in moved]


def _seeds(study: Study) -> str:
    """`3 training seeds`, `1 to 3 training seeds`."""
    counts = sorted({len(cell.seeds) for cell in (*study.cells, *study.controls)} or {len(study.references[0].seeds)})
    text = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{text} training seed{'' if counts[-1] == 1 else 's'}"


def _look(color: str, marker: str, recovery: str | None) -> dict[str, Any]:
    hollow = {"linestyle": "--", "markerfacecolor": "white"} if recovery else {"linestyle": "-"}
    return {"color": color, "marker": marker, "markersize": 5.5, "linewidth": 1.6, "zorder": 4, **hollow}


def _line(
    axes: Axes, cells: Sequence[Cell], look: dict[str, Any], higher_is_better: bool, x: float | None = None
) -> None:
    """A line with its shade; a single point has a bar instead. `x`: where that stands, in %."""
    places = [100 * cell.sparsity if x is None else x for cell in cells]
    means = np.array([cell.metric.mean for cell in cells])
    low, high = np.array([band(cell, higher_is_better) for cell in cells]).T
    if len(cells) == 1:
        axes.vlines(places, low, high, color=look["color"], linewidth=1.2, zorder=3)
    else:
        axes.fill_between(places, low, high, color=look["color"], alpha=0.13, linewidth=0, zorder=1)
    axes.plot(places, means, **look)


def _arrows(axes: Axes, points: Sequence[tuple[float, float]], ends: Limits, look: dict[str, Any]) -> None:
    """A triangle at the edge that a point lies beyond."""
    inset = 0.02 * (ends[1] - ends[0])
    for x, y in points:
        if not ends[0] <= y <= ends[1]:
            below = y < ends[0]
            place = ends[0] + inset if below else ends[1] - inset
            style = look | {"marker": "v" if below else "^", "markersize": 8, "linestyle": "", "zorder": 6}
            axes.plot([x], [place], clip_on=False, **style)


def _inside(study: Study, ends: Limits) -> list[Reference]:
    """Dense and the baselines inside the axis, lowest first."""
    dense, *others = study.references
    near = [other for other in others if ends[0] <= other.metric.mean <= ends[1]]
    return sorted([dense, *near], key=lambda other: other.metric.mean)


def _horizontals(axes: Axes, inside: Sequence[Reference], ends: Limits, span: float) -> None:
    """A line for each, with its name at the right."""
    height = ends[1] - ends[0]
    means = [other.metric.mean for other in inside]
    places = spread(means, GAP * height, ends[0] + GAP * height / 2, ends[1] - GAP * height / 2)
    for other, mean, place in zip(inside, means, places, strict=True):
        ours = other.name == "dense"
        look: dict[str, Any] = {
            "color": OURS["dense"] if ours else LINE,
            "linewidth": 2.0 if ours else 1.0,
            "zorder": 2,
        }
        axes.plot([0.0, 100 + 0.035 * span], [mean, mean], linestyle="-" if ours else (0, (4, 2)), **look)
        axes.plot([100 + 0.035 * span, 100 + 0.055 * span], [mean, place], **look)
        color = OURS["dense"] if ours else "#505050"
        axes.text(
            100 + 0.062 * span, place, other.name, va="center", fontsize=8.5, color=color,
            fontweight="bold" if ours else "normal",
        )  # fmt: skip


def _retention_axis(axes: Axes, study: Study, ends: Limits) -> None:
    """At the right, in % of the dense mean over all training seeds; none where that is not positive."""
    dense = study.references[0].metric.mean
    if min(dense, ends[1]) <= 0 or (not study.metric.higher_is_better and ends[0] <= 0):
        return
    higher = study.metric.higher_is_better
    shares = sorted(end / dense if higher else dense / end for end in ends)
    ticks = [tick for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(*(100 * s for s in shares)) if tick > 0]
    ticks = [tick for tick in ticks if 100 * shares[0] <= tick <= 100 * shares[1]]
    right = axes.twinx()
    right.set_ylim(*ends)
    right.set_yticks(
        [dense * tick / 100 if higher else dense / (tick / 100) for tick in ticks], [f"{t:g}" for t in ticks]
    )
    right.set_ylabel("retention [% of dense]")
    right.spines[["top", "left"]].set_visible(False)
