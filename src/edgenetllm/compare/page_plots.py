"""The three plots of a section of a comparison page: retention over sparsity, quality over latency, quality over size."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go  # type: ignore[import-untyped]

from edgenetllm.compare.page_groups import Group
from edgenetllm.compare.page_marks import (
    DensePoint,
    Limits,
    Line,
    Point,
    add_dense,
    add_horizontals,
    add_lines,
    add_word,
    empty_figure,
)
from edgenetllm.compare.page_sections import Section
from edgenetllm.compare.page_series import DENSE, GREY, Series
from edgenetllm.compare.page_text import estimate, metric_name
from edgenetllm.compare.retention_plot import COLLAPSED, band, limits
from edgenetllm.compare.retention_study import Cell, Reference, Study

NAMES = 9  # of baselines at most, else they fill the plot
MEGA = 1e6


def draw_section(section: Section, series: Sequence[Series]) -> dict[str, go.Figure]:
    """Name of the plot -> figure."""
    ends = limits(as_study(section))
    return {
        "sparsity": _retention(section, series),
        "latency": _latency(section, series, ends),
        "size": _size(section, series, ends),
    }


def to_json(figure: go.Figure) -> str:
    """For a `script` element, which only `<` could end."""
    return json.dumps(figure.to_plotly_json(), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def as_study(section: Section) -> Study:
    """The section in the words of a retention study, whose plot decides on the axis of the metric."""
    cells = [_cell(group) for group in section.groups]
    sign = 1 if section.metric.higher_is_better else -1
    parents = sorted(
        section.dense, key=lambda group: sign * group.figures.metric.mean
    )  # the worst shows how far one looks
    references = [Reference(name=_full_name(g), seeds=g.seeds, metric=g.figures.metric) for g in parents]
    references += [Reference(name=name, seeds=[], metric=figures) for name, figures in section.baselines.items()]
    return Study(
        task=section.task,
        model=", ".join(map(_full_name, section.dense)),
        data=section.data,
        metric=section.metric,
        episodes=parents[0].figures.metric.n,
        cells=[cell for cell in cells if cell.sparsity < 1],
        controls=[cell for cell in cells if cell.sparsity == 1],
        references=references,
        runs=[],
        notes=[],
    )


def _cell(group: Group) -> Cell:
    return Cell(
        method=group.method,
        recovery=group.recovery,
        sparsity=group.sparsity,
        variant=group.variant,
        seeds=group.seeds,
        metric=group.figures.metric,
        retention=group.figures.retention,
    )


def _retention(section: Section, series: Sequence[Series]) -> go.Figure:
    known = [group for one in series for group in one.groups if group.figures.retention is not None]
    crowd: dict[float, list[str]] = {}
    for one in series:
        for group in one.groups:
            crowd.setdefault(group.sparsity, []).append(one.key)

    def points(one: Series) -> list[Point]:
        found = []
        for group in one.groups:
            share, beside = group.figures.retention, crowd[group.sparsity]
            if share is not None:
                step = min(0.6, 5 / len(beside))  # points at one sparsity step aside, or they would hide each other
                x = 100 * group.sparsity + step * (beside.index(one.key) - (len(beside) - 1) / 2)
                found.append(Point(group, x, 100 * share.mean, (100 * share.ci95[0], 100 * share.ci95[1])))
        return found

    title, x = "retention against sparsity", "sparsity of the backbone [%]"
    figure = empty_figure(title, x, "retention [% of dense] ↑", _retention_ends(known))
    add_lines(figure, section, series, points)
    lowest = min([100 * group.sparsity for group in known], default=0.0)
    figure.update_xaxes(range=[max(-3.0, lowest - 8), 103.5], dtick=10)
    add_horizontals(figure, [Line("dense", 100.0, DENSE, "the dense parents: 100 %")])
    if not known:
        add_word(figure, "undefined: a mean is zero or negative<br>in the data or in a resample")
    return figure


def _retention_ends(groups: Sequence[Group]) -> Limits:
    """Of the axis, in %: all that has not collapsed, with its interval, and dense."""
    shares = [group.figures.retention for group in groups if group.figures.retention is not None]
    kept = [end for share in shares if share.mean >= COLLAPSED for end in (share.mean, *share.ci95)]
    ends = [100.0, *(100 * end for end in kept if end >= COLLAPSED)]
    margin = max(0.08 * (max(ends) - min(ends)), 1.0)
    return min(ends) - margin, max(ends) + margin


def _latency(section: Section, series: Sequence[Series], ends: Limits) -> go.Figure:
    higher = section.metric.higher_is_better
    engines = list(dict.fromkeys(name for group in (*section.groups, *section.dense) for name in group.latency))
    figure = empty_figure("quality against decision latency", "one decision, median [ms]", _quality(section), ends)
    for engine in engines:

        def points(one: Series, engine: str = engine) -> list[Point]:
            groups = [group for group in one.groups if engine in group.latency]
            return [Point(g, g.latency[engine].ms, g.figures.metric.mean, band(_cell(g), higher)) for g in groups]

        add_lines(figure, section, series, points, engine if len(engines) > 1 else "")
        for group in section.dense:
            found = group.latency.get(engine)
            if found is not None:
                name = escape(f"dense {engine}" if len(engines) > 1 else "dense")
                add_dense(
                    figure, section, group, [DensePoint(found.ms, name, True, _model(section, group), found.ends)]
                )
    add_horizontals(figure, _references(section, ends))
    figure.update_xaxes(rangemode="tozero")
    if not engines:
        add_word(figure, "no latency was measured")
    return figure


def _size(section: Section, series: Sequence[Series], ends: Limits) -> go.Figure:
    higher = section.metric.higher_is_better

    def points(one: Series) -> list[Point]:
        groups = [group for group in one.groups if "bundle" in group.sizes]
        return [Point(g, g.sizes["bundle"] / MEGA, g.figures.metric.mean, band(_cell(g), higher)) for g in groups]

    x = "size of what is shipped [MB], logarithmic"
    figure = empty_figure("quality against size", x, _quality(section), ends)
    add_lines(figure, section, series, points, log=True)
    for group in section.dense:
        kinds = [kind for kind in ("fp32", "fp16", "int8") if kind in group.sizes]
        models = {"fp16": _model(section, group)}  # once, in the middle
        sizes = [DensePoint(group.sizes[k] / MEGA, f"dense {k}", k == "fp32", models.get(k, "")) for k in kinds]
        add_dense(figure, section, group, sizes)
    add_horizontals(figure, _references(section, ends))
    known = [x for trace in figure.data for x in trace.x]
    if known:
        low, high = math.log10(min(known)) - 0.12, math.log10(max(known)) + 0.12
        ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        figure.update_xaxes(type="log", range=[low, high], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    else:
        add_word(figure, "no sizes are known")
    return figure


def _model(section: Section, group: Group) -> str:
    """The name of a dense model where there are several."""
    return escape(_full_name(group)) if len(section.dense) > 1 else ""


def _full_name(group: Group) -> str:
    return f"{group.model}, {group.variant}" if group.variant else group.model


def _quality(section: Section) -> str:
    better = "higher" if section.metric.higher_is_better else "lower"
    return escape(f"{metric_name(section.metric)} ({better} is better)")


def _references(section: Section, ends: Limits) -> list[Line]:
    """The baselines inside the axis, of many the best, and where there is one model its dense parents."""
    sign = 1 if section.metric.higher_is_better else -1
    inside = [(name, one) for name, one in section.baselines.items() if ends[0] <= one.mean <= ends[1]]
    inside.sort(key=lambda item: -sign * item[1].mean)
    lines = [Line(name, one.mean, GREY, f"{escape(name)}: {estimate(one)}") for name, one in inside[:NAMES]]
    if len(section.dense) == 1:
        figures = section.dense[0].figures.metric
        lines.append(Line("dense", figures.mean, DENSE, f"dense: {estimate(figures)}"))
    return lines
