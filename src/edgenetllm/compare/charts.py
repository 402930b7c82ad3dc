"""The plots of many runs as data, for the page and for a study's picture alike: axes, points, intervals, names of lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgenetllm.compare.sections import Group, Section
from edgenetllm.compare.series import M, Measured, Series
from edgenetllm.report.bootstrap import Estimate
from edgenetllm.report.text import estimate_text, metric_name
from edgenetllm.tasks.task import Metric

Limits = tuple[float, float]

COLLAPSED = 0.6  # retention below which a point does not stretch the axis
NAME_GAP = 0.05  # of the height, between the names of two horizontal lines
MAX_BASELINES = 9  # more of them would fill the plot
MEGA = 1e6


class Point(NamedTuple):
    """A group in a plot; `ends` are those of its interval in y."""

    group: Any
    x: float
    y: float
    ends: Limits


class Line(NamedTuple):
    """A series in a plot. `text`: what its points have in common, and the points of other lines have not."""

    series: Series[Any]
    points: list[Point]
    text: str = ""


class DensePoint(NamedTuple):
    """A dense model in a plot."""

    x: float
    name: str
    played: bool = True  # whether the quality is of this very encoding
    ends: Limits | None = None  # lowest and highest x


class Horizontal(NamedTuple):
    """A line across the whole plot, and where its name stands, apart from the others."""

    name: str
    y: float
    place: float
    ours: bool
    hover: str


class Triangle(NamedTuple):
    """A point beyond the axis, at its edge; those at one place are stacked."""

    line: Line
    point: Point
    below: bool
    level: int


@dataclass(eq=False)
class Chart:
    """A plot, whatever draws it."""

    title: str
    x: str
    y: str
    ends: Limits  # of the y axis
    lines: list[Line]
    horizontals: list[Horizontal]
    x_ends: Limits | None = None
    log: bool = False  # the x axis
    dense: list[tuple[Group, list[DensePoint]]] = field(default_factory=list)
    word: str = ""  # in the middle of a plot that would be empty

    def triangles(self) -> list[Triangle]:
        triangles, stacks = [], dict[tuple[float, bool], int]()
        for line in self.lines:
            for point in line.points:
                if not self.ends[0] <= point.y <= self.ends[1]:
                    place = (round(point.x, 6), point.y < self.ends[0])
                    stacks[place] = stacks.get(place, -1) + 1
                    triangles.append(Triangle(line, point, place[1], stacks[place]))
        return triangles


def section_charts(section: Section, series: Sequence[Series[Group]]) -> dict[str, Chart]:
    """Name of the plot -> retention over sparsity, quality over latency, quality over size."""
    # What the plots of quality have in common: the axis, baselines and the dense model.
    higher = section.metric.higher_is_better
    parents = [group.metric for group in section.dense]
    ends = quality_ends(section.metric, parents, section.groups, section.baselines)
    dense = parents[0] if len(parents) == 1 else None
    y = f"{metric_name(section.metric)} ({'higher' if higher else 'lower'} is better)"
    lines = horizontals(section.metric, dense, section.baselines, ends)

    def quality(group: Group, x: float) -> Point:
        return Point(group, x, group.metric.mean, band(group, higher))

    # Quality over latency, a line for each series and engine.
    engines = list(dict.fromkeys(name for group in (*section.groups, *section.dense) for name in group.latency))
    several = len(engines) > 1
    latency: Chart = Chart("quality against decision latency", "one decision, median [ms]", y, ends, [], lines)
    latency.word = "" if engines else "no latency was measured"
    for engine in engines:
        for one in series:
            points = [quality(group, group.latency[engine].ms) for group in one.groups if engine in group.latency]
            latency.lines.append(Line(one, points, engine if several else ""))
        timed = [(group, group.latency[engine]) for group in section.dense if engine in group.latency]
        form = "dense" if engine == "torch" else "dense int8"
        name = f"{form} {engine}" if several else form
        latency.dense += [(group, [DensePoint(measured.ms, name, ends=measured.ends)]) for group, measured in timed]

    # Quality over size, with every encoding of the dense models.
    size: Chart = Chart(
        "quality against size", "size of what is shipped [MB], logarithmic", y, ends, [], lines, log=True
    )
    for one in series:
        points = [quality(group, group.sizes["bundle"] / MEGA) for group in one.groups if "bundle" in group.sizes]
        size.lines.append(Line(one, points))
    for group in section.dense:
        kinds = [kind for kind in ("fp32", "fp16", "int8") if kind in group.sizes]
        sizes = [DensePoint(group.sizes[kind] / MEGA, f"dense {kind}", kind == "fp32") for kind in kinds]
        size.dense.append((group, sizes))
    known = [p.x for line in size.lines for p in line.points] + [p.x for _, points in size.dense for p in points]
    size.word = "" if known else "no sizes are known"
    size.x_ends = (math.log10(min(known)) - 0.12, math.log10(max(known)) + 0.12) if known else None
    return {"sparsity": retention_chart(series), "latency": latency, "size": size}


def retention_chart(series: Sequence[Series[M]]) -> Chart:
    """Retention over sparsity, in % of the dense parents: all that has not collapsed, with its interval."""

    def percents(group: Measured) -> tuple[float, Limits] | None:
        retention = group.retention
        return None if retention is None else (100 * retention.mean, (100 * retention.ci95[0], 100 * retention.ci95[1]))

    lines = over_sparsity(series, percents)
    points = [point for line in lines for point in line.points]
    readable = [end for point in points if point.y >= 100 * COLLAPSED for end in (point.y, *point.ends)]
    ends = [100.0, *(end for end in readable if end >= 100 * COLLAPSED)]
    margin = max(0.08 * (max(ends) - min(ends)), 1.0)
    lowest = min([100 * point.group.sparsity for point in points], default=0.0)
    return Chart(
        title="retention against sparsity",
        x="sparsity of the backbone [%]",
        y="retention [% of dense] ↑",
        ends=(min(ends) - margin, max(ends) + margin),
        lines=lines,
        horizontals=[Horizontal("dense", 100.0, 100.0, True, "the dense parents: 100 %")],
        x_ends=(max(-3.0, lowest - 8), 103.5),
        word="" if points else "undefined: a mean is zero or negative<br>in the data or in a resample",
    )


def quality_chart(
    metric: Metric, series: Sequence[Series[M]], dense: Estimate, baselines: Mapping[str, Estimate]
) -> Chart:
    """The metric over sparsity, between dense model and baselines."""
    higher = metric.higher_is_better
    groups = [group for one in series for group in one.groups]
    ends = quality_ends(metric, [dense], groups, baselines)
    lowest = 100 * min([group.sparsity for group in groups if group.sparsity < 1] or [0.5])
    return Chart(
        title="",
        x="sparsity of the backbone [%]",
        y=f"{metric_name(metric)} ({'higher' if higher else 'lower'} is better)",
        ends=ends,
        lines=over_sparsity(series, lambda group: (group.metric.mean, band(group, higher))),
        horizontals=horizontals(metric, dense, baselines, ends),
        x_ends=(max(0.0, lowest - 5), 103.0),
    )


def over_sparsity(series: Sequence[Series[M]], figure: Callable[[M], tuple[float, Limits] | None]) -> list[Line]:
    """Lines over sparsity in %. Points at one sparsity step aside, or they would hide each other."""
    crowd: dict[float, list[str]] = {}
    for one in series:
        for group in one.groups:
            crowd.setdefault(group.sparsity, []).append(one.key)
    lines = []
    for one in series:
        points = []
        for group in one.groups:
            others, value = crowd[group.sparsity], figure(group)
            step = min(0.6, 5 / len(others)) * (others.index(one.key) - (len(others) - 1) / 2)
            points += [] if value is None else [Point(group, 100 * group.sparsity + step, *value)]
        lines.append(Line(one, points))
    return lines


def band(group: Measured, higher_is_better: bool) -> Limits:
    """The retention's interval in units of the metric, around the mean; without a ratio the metric's own interval."""
    mean, retention = group.metric.mean, group.retention
    if retention is None or 0 in (retention.mean, *retention.ci95):
        return group.metric.ci95
    low, high = retention.ci95
    if higher_is_better:
        return mean / retention.mean * low, mean / retention.mean * high
    return mean * retention.mean / high, mean * retention.mean / low


def quality_ends(
    metric: Metric, dense: Sequence[Estimate], groups: Sequence[Measured], baselines: Mapping[str, Estimate]
) -> Limits:
    """Ends of the metric's axis: all that has not collapsed, with its interval, the dense models, and near baselines.

    The worst dense model shows how far one looks.
    """
    higher = metric.higher_is_better
    sign = 1 if higher else -1
    first, *others = sorted(dense, key=lambda one: sign * one.mean)
    worst = first.mean - sign * 3 * (first.ci95[1] - first.ci95[0])  # where a ratio says nothing
    if first.mean > 0:
        worst = first.mean * COLLAPSED if higher else first.mean / COLLAPSED
    points = [first.mean]
    for group in groups:
        if sign * (group.metric.mean - worst) >= 0:
            points += [group.metric.mean, *(end for end in band(group, higher) if sign * (end - worst) >= 0)]
    low, high = min(points), max(points)
    reach = max(0.4 * (high - low), 0.02 * abs(first.mean))
    near = [one.mean for one in (*others, *baselines.values()) if low - reach <= one.mean <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def horizontals(
    metric: Metric, dense: Estimate | None, baselines: Mapping[str, Estimate], ends: Limits
) -> list[Horizontal]:
    """The baselines inside the axis, of many the best, and the dense model where there is one; lowest first."""
    sign = 1 if metric.higher_is_better else -1
    inside = [(name, one) for name, one in baselines.items() if ends[0] <= one.mean <= ends[1]]
    shown = sorted(inside, key=lambda item: -sign * item[1].mean)[:MAX_BASELINES]
    shown += [("dense", dense)] if dense is not None else []
    shown.sort(key=lambda item: item[1].mean)
    gap = NAME_GAP * (ends[1] - ends[0])
    places = spread([one.mean for _, one in shown], gap, ends[0] + gap / 2, ends[1] - gap / 2)
    return [
        Horizontal(name, one.mean, place, name == "dense", f"{name}: {estimate_text(one)}")
        for (name, one), place in zip(shown, places, strict=True)
    ]


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
