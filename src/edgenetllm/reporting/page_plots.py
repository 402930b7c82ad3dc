"""The three plots of a section of a comparison page: retention over sparsity, quality over latency, quality over size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from edgenetllm.reporting.page_groups import Group
from edgenetllm.reporting.page_sections import Section
from edgenetllm.reporting.page_series import DENSE, GREY, Series
from edgenetllm.reporting.page_text import estimate, hover_text, metric_name, row_id
from edgenetllm.reporting.results import Estimate
from edgenetllm.reporting.retention_plot import COLLAPSED, band, limits, spread
from edgenetllm.reporting.retention_study import Cell, Reference, Study

Limits = tuple[float, float]
Point = tuple[Group, float, float, Limits]  # group, x, y, ends of the interval in y

HEIGHT = 380  # pixels
GAP = 0.055  # of the height, between the names of two horizontal lines
NAMES = 9  # of baselines at most, else they fill the plot
MEGA = 1e6


def draw_section(section: Section, series: Sequence[Series]) -> dict[str, go.Figure]:
    """Name of the plot -> figure. A dense model with several sizes stands at each of them."""
    study = as_study(section)
    return {
        "sparsity": _retention(section, series),
        "latency": _latency(section, series, study),
        "size": _size(section, series, study),
    }


def to_json(figure: go.Figure) -> str:
    """For a `script` element, which only `<` could end."""
    return json.dumps(figure.to_plotly_json(), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def as_study(section: Section) -> Study:
    """The section in the words of a retention study, whose plot decides on the axis of the metric."""
    cells = [_cell(group) for group in section.groups]
    sign = 1 if section.metric.higher_is_better else -1
    parents = sorted(section.dense, key=lambda group: sign * group.figures.metric.mean)
    references = [Reference(name=g.model, seeds=g.seeds, metric=g.figures.metric) for g in parents]
    references += [Reference(name=name, seeds=[], metric=figures) for name, figures in section.baselines.items()]
    return Study(
        task=section.task,
        model=", ".join(group.model for group in section.dense),
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
        seeds=group.seeds,
        metric=group.figures.metric,
        retention=group.figures.retention,
    )


def _retention(section: Section, series: Sequence[Series]) -> go.Figure:
    known = [group for one in series for group in one.groups if group.figures.retention is not None]
    shares = [group.figures.retention for group in known if group.figures.retention is not None]
    ends = [end for share in shares if share.mean >= COLLAPSED for end in (*share.ci95, share.mean)]
    ends = [100 * end for end in ends if end >= COLLAPSED] + [100.0]
    margin = 0.08 * (max(ends) - min(ends)) or 2.0
    y = (min(ends) - margin, max(ends) + margin)
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
                found.append((group, x, 100 * share.mean, (100 * share.ci95[0], 100 * share.ci95[1])))
        return found

    figure = _figure("retention against sparsity", "sparsity of the backbone [%]", "retention [% of dense] ↑", y)
    _lines(figure, section, series, points, y)
    lowest = min([100 * group.sparsity for group in known], default=0.0)
    figure.update_xaxes(range=[max(-3.0, lowest - 8), 103.5], dtick=10)
    _horizontals(figure, [("dense", 100.0, DENSE, "the dense parent: 100 %")], y)
    if not known:
        _say(figure, "undefined: a mean is zero or negative<br>in the data or in a resample")
    return figure


def _latency(section: Section, series: Sequence[Series], study: Study) -> go.Figure:
    y = limits(study)
    higher = section.metric.higher_is_better
    engines = list(dict.fromkeys(name for group in (*section.groups, *section.dense) for name in group.latency))
    name = "one decision, median"
    figure = _figure("quality against decision latency", f"{name} [ms]", _quality(section), y)
    for engine in engines:

        def points(one: Series, engine: str = engine) -> list[Point]:
            groups = [group for group in one.groups if engine in group.latency]
            ends = [band(_cell(group), higher) for group in groups]
            return [
                (group, group.latency[engine].ms, group.figures.metric.mean, interval)
                for group, interval in zip(groups, ends, strict=True)
            ]

        _lines(figure, section, series, points, y, engine if len(engines) > 1 else None)
        for group in section.dense:
            if engine in group.latency:
                found = group.latency[engine]
                text = f"dense {engine}" if len(engines) > 1 else "dense"
                _dense(
                    figure,
                    section,
                    group,
                    [(found.ms, text, True)],
                    (found.ms - found.ends[0], found.ends[1] - found.ms),
                )
    _horizontals(figure, _references(section, y), y)
    figure.update_xaxes(rangemode="tozero")
    if not engines:
        _say(figure, "no latency was measured")
    return figure


def _size(section: Section, series: Sequence[Series], study: Study) -> go.Figure:
    y = limits(study)
    higher = section.metric.higher_is_better

    def points(one: Series) -> list[Point]:
        groups = [group for group in one.groups if "bundle" in group.sizes]
        return [
            (group, group.sizes["bundle"] / MEGA, group.figures.metric.mean, band(_cell(group), higher))
            for group in groups
        ]

    figure = _figure("quality against size", "size of what is shipped [MB], logarithmic", _quality(section), y)
    _lines(figure, section, series, points, y, log=True)
    for group in section.dense:
        whose = group.model if len(section.dense) > 1 else "dense"
        kinds = [kind for kind in ("fp32", "fp16", "int8") if kind in group.sizes]
        _dense(figure, section, group, [(group.sizes[k] / MEGA, f"{whose} {k}", k == "fp32") for k in kinds])
    _horizontals(figure, _references(section, y), y)
    sizes = [x for trace in figure.data for x in trace.x if x is not None]
    if sizes:
        low, high = math.log10(min(sizes)) - 0.12, math.log10(max(sizes)) + 0.12
        ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        figure.update_xaxes(type="log", range=[low, high], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    else:
        _say(figure, "no sizes are known")
    return figure


def _quality(section: Section) -> str:
    return escape(
        f"{metric_name(section.metric)} ({'higher' if section.metric.higher_is_better else 'lower'} is better)"
    )


def _figure(title: str, x: str, y: str, ends: Limits) -> go.Figure:
    """Without colours of text and grid: the page sets them for light and dark."""
    axis: dict[str, Any] = {"zeroline": False, "showline": True, "ticks": "outside", "title": {"standoff": 8}}
    return go.Figure(
        layout=go.Layout(
            template="none",
            title={"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
            xaxis={**axis, "title": {"text": x, "standoff": 8}},
            yaxis={**axis, "title": {"text": y, "standoff": 8}, "range": list(ends)},
            height=HEIGHT,
            margin={"l": 64, "r": 100, "t": 40, "b": 52},
            showlegend=False,
            hovermode="closest",
            hoverlabel={"align": "left"},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
        )
    )


def _lines(
    figure: go.Figure,
    section: Section,
    series: Sequence[Series],
    points: Callable[[Series], list[Point]],
    ends: Limits,
    engine: str | None = None,
    log: bool = False,
) -> None:
    """A line per series with the intervals as bars, and a triangle at the edge for each point beyond it."""
    beyond: dict[tuple[float, bool], int] = {}
    for one in series:
        found = points(one)
        if not found:
            continue
        groups, x, y, intervals = zip(*found, strict=True)
        trace = go.Scatter(
            x=x,
            y=y,
            mode="lines+markers+text" if engine else "lines+markers",
            name=escape(one.name),
            meta={"series": one.key, "model": one.model},
            customdata=[row_id(section, group) for group in groups],
            hovertext=[hover_text(section, one.name, group) for group in groups],
            hoverinfo="text",
            line={"color": one.look.color, "dash": one.look.dash, "width": 1.8},
            marker={
                "symbol": one.look.symbol,
                "color": one.look.color,
                "size": 10 if "star" in one.look.symbol else 8,
                "line": {"width": 1.8, "color": one.look.color},
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - mean for mean, (_, high) in zip(y, intervals, strict=True)],
                "arrayminus": [mean - low for mean, (low, _) in zip(y, intervals, strict=True)],
                "thickness": 1,
                "width": 3,
            },
        )
        if engine:
            trace.update(text=[escape(engine)] * len(x), textposition="top center", textfont={"size": 10})
        figure.add_trace(trace)
        for group, place, mean in zip(groups, x, y, strict=True):
            if not ends[0] <= mean <= ends[1]:
                below = mean < ends[0]
                key = (round(place, 6), below)
                beyond[key] = beyond.get(key, -1) + 1
                figure.add_annotation(
                    name=one.key,
                    x=math.log10(place) if log else place,
                    y=0 if below else 1,
                    yref="paper",
                    yanchor="bottom" if below else "top",
                    yshift=(1 if below else -1) * 13 * beyond[key],
                    text="▼" if below else "▲",
                    font={"color": one.look.color, "size": 13},
                    showarrow=False,
                    hovertext=f"beyond the axis:<br>{hover_text(section, one.name, group)}",
                )


def _dense(
    figure: go.Figure,
    section: Section,
    group: Group,
    places: Iterable[tuple[float, str, bool]],
    spread_ms: Limits | None = None,
) -> None:
    """The dense parents at x, named; hollow where the quality of that encoding was not played."""
    x, names, played = zip(*places, strict=True) if (places := list(places)) else ((), (), ())
    if not x:
        return
    mean = group.figures.metric.mean
    note = "<br>quality as played in fp32: dense fp16 and int8 were not played"
    trace = go.Scatter(
        x=x,
        y=[mean] * len(x),
        mode="lines+markers+text" if len(x) > 1 else "markers+text",
        name=escape(f"dense {group.model}"),
        meta={"series": "dense", "model": group.model},
        customdata=[row_id(section, group)] * len(x),
        text=[escape(name) for name in names],
        textposition="top center",
        textfont={"color": DENSE, "size": 11},
        hovertext=[
            escape(f"{name}: {place:.4g}") + f"<br>{hover_text(section, 'dense', group)}" + ("" if real else note)
            for place, name, real in zip(x, names, played, strict=True)
        ],
        hoverinfo="text",
        line={"color": DENSE, "width": 1.2},
        marker={
            "symbol": ["diamond" if real else "diamond-open" for real in played],
            "size": 11,
            "color": DENSE,
            "line": {"width": 1.8, "color": DENSE},
        },
    )
    if spread_ms is not None and max(spread_ms) > 0:
        bars = {"type": "data", "symmetric": False, "array": [spread_ms[1]], "arrayminus": [spread_ms[0]]}
        trace.update(error_x={**bars, "thickness": 1, "width": 3, "color": DENSE})
    figure.add_trace(trace)


Line = tuple[str, float, str, str]  # name, y, colour, hover text


def _references(section: Section, ends: Limits) -> list[Line]:
    """Dense parents and the baselines inside the axis, of many baselines the best."""
    sign = 1 if section.metric.higher_is_better else -1

    def text(name: str, figures: Estimate) -> str:
        return f"{escape(name)}: {estimate(figures)}"

    inside = [(name, one) for name, one in section.baselines.items() if ends[0] <= one.mean <= ends[1]]
    inside.sort(key=lambda item: -sign * item[1].mean)
    lines = [(name, one.mean, GREY, text(name, one)) for name, one in inside[:NAMES]]
    if len(section.dense) == 1:
        figures = section.dense[0].figures.metric
        lines.append(("dense", figures.mean, DENSE, text("dense", figures)))
    return lines


def _horizontals(figure: go.Figure, lines: Sequence[Line], ends: Limits) -> None:
    """Across the plot, named at the right, the names moved apart."""
    lines = sorted((line for line in lines if ends[0] <= line[1] <= ends[1]), key=lambda line: line[1])
    longest = max((len(name) for name, *_ in lines), default=0)
    figure.update_layout(margin_r=min(220, 24 + 7 * longest))
    gap = GAP * (ends[1] - ends[0])
    places = spread([line[1] for line in lines], gap, ends[0] + gap / 2, ends[1] - gap / 2)
    for (name, y, color, text), place in zip(lines, places, strict=True):
        ours = color == DENSE
        shape = {"color": color, "width": 1.6 if ours else 1, "dash": "solid" if ours else "dot"}
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=y, y1=y, line=shape, layer="below")
        figure.add_annotation(
            x=1, xref="paper", y=place, xanchor="left", xshift=4, showarrow=False, align="left", hovertext=text,
            text=f"<b>{escape(name)}</b>" if ours else escape(name), font={"color": color, "size": 11},
        )  # fmt: skip


def _say(figure: go.Figure, text: str) -> None:
    figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text=text, showarrow=False, font={"size": 13})
