"""What the plots of a comparison page are made of: axes, lines with intervals, dense models, horizontal lines with names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]

from edgenetllm.compare.page_groups import Group
from edgenetllm.compare.page_sections import Section
from edgenetllm.compare.page_series import DENSE, Series
from edgenetllm.compare.page_text import hover_text, row_id
from edgenetllm.compare.retention_plot import spread

Limits = tuple[float, float]

HEIGHT = 380  # pixels
GAP = 0.055  # of the height, between the names of two horizontal lines
FEW = 4  # lines, up to which each has its own text
HIGH = 0.85  # of the height, from which a name has no room above its point


class Point(NamedTuple):
    """A group in a plot."""

    group: Group
    x: float
    y: float
    ends: Limits  # of the interval in y


class DensePoint(NamedTuple):
    """A dense model in a plot."""

    x: float
    name: str  # HTML
    played: bool  # whether the quality is of this very encoding
    model: str = ""  # HTML, on a line of its own
    ends: Limits | None = None  # lowest and highest x


class Line(NamedTuple):
    """Across the whole plot."""

    name: str
    y: float
    color: str
    hover: str  # HTML


def empty_figure(title: str, x: str, y: str, ends: Limits) -> go.Figure:
    """`ends`: of the y axis. Colours of text and grid are missing: the page sets them for light and dark."""
    axis: dict[str, Any] = {"zeroline": False, "showline": True, "ticks": "outside"}
    return go.Figure(
        layout=go.Layout(
            template="none",
            title={"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
            xaxis={**axis, "title": {"text": x, "standoff": 8}},
            yaxis={**axis, "title": {"text": y, "standoff": 8}, "range": list(ends)},
            height=HEIGHT,
            margin={"l": 64, "r": 24, "t": 40, "b": 52},
            showlegend=False,
            hovermode="closest",
            hoverlabel={"align": "left"},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
        )
    )


def add_lines(
    figure: go.Figure,
    section: Section,
    series: Sequence[Series],
    points: Callable[[Series], Sequence[Point]],
    text: str = "",
    log: bool = False,
) -> None:
    """A line per series with its intervals as bars. A point beyond the y axis is a triangle at its edge.

    `text`: what the lines have in common, said at each point under the mouse and, of few lines, at their ends. `log`: the
    x axis will be logarithmic.
    """
    low, high = figure.layout.yaxis.range
    beyond: dict[tuple[float, str], int] = {}
    for one in series:
        found = points(one)
        if not found:
            continue
        figure.add_trace(_line(section, one, found, text, named=bool(text) and len(series) <= FEW))
        for point in found:
            if low <= point.y <= high:
                continue
            below = point.y < low
            place = (round(point.x, 6), "below" if below else "above")
            beyond[place] = beyond.get(place, -1) + 1  # triangles at one place are stacked
            figure.add_annotation(
                name=one.key,
                x=math.log10(point.x) if log else point.x,
                y=0 if below else 1,
                yref="paper",
                yanchor="bottom" if below else "top",
                yshift=(1 if below else -1) * 13 * beyond[place],
                text="▼" if below else "▲",
                font={"color": one.look.color, "size": 13},
                showarrow=False,
                hovertext=f"beyond the axis:<br>{hover_text(section, one.name, point.group)}",
            )


def _line(section: Section, one: Series, points: Sequence[Point], text: str, named: bool) -> go.Scatter:
    look = one.look
    before = f"{escape(text)}<br>" if text else ""
    return go.Scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        mode="lines+markers+text" if named else "lines+markers",
        name=escape(one.name),
        meta={"series": one.key, "model": one.model},
        customdata=[row_id(section, point.group) for point in points],
        hovertext=[before + hover_text(section, one.name, point.group) for point in points],
        hoverinfo="text",
        text=[""] * (len(points) - 1) + [escape(text)],
        textposition="top center",
        textfont={"size": 10},
        line={"color": look.color, "dash": look.dash, "width": 1.8},
        marker={
            "symbol": look.symbol,
            "color": look.color,
            "size": 10 if "star" in look.symbol else 8,
            "line": {"width": 1.8, "color": look.color},
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [point.ends[1] - point.y for point in points],
            "arrayminus": [point.y - point.ends[0] for point in points],
            "thickness": 1,
            "width": 3,
        },
    )


def add_dense(figure: go.Figure, section: Section, group: Group, points: Sequence[DensePoint]) -> None:
    """The dense models of a group, named; hollow where they were not played."""
    if not points:
        return
    mean = group.figures.metric.mean
    low, high = figure.layout.yaxis.range
    above = mean <= low + HIGH * (high - low)
    note = "<br>quality as played in fp32: this encoding was not played"
    reach = [point.ends or (point.x, point.x) for point in points]
    figure.add_trace(
        go.Scatter(
            x=[point.x for point in points],
            y=[mean] * len(points),
            mode="lines+markers+text",
            name=escape(f"dense {group.model}"),
            meta={"series": "dense", "model": group.model},
            customdata=[row_id(section, group)] * len(points),
            text=["<br>".join(filter(None, (p.model, p.name) if above else (p.name, p.model))) for p in points],
            textposition="top center" if above else "bottom center",
            cliponaxis=False,
            textfont={"color": DENSE, "size": 11},
            hovertext=[
                f"{point.name}: {point.x:.4g}<br>{hover_text(section, 'dense', group)}{'' if point.played else note}"
                for point in points
            ],
            hoverinfo="text",
            line={"color": DENSE, "width": 1.2},
            marker={
                "symbol": ["diamond" if point.played else "diamond-open" for point in points],
                "size": 11,
                "color": DENSE,
                "line": {"width": 1.8, "color": DENSE},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [ends[1] - point.x for point, ends in zip(points, reach, strict=True)],
                "arrayminus": [point.x - ends[0] for point, ends in zip(points, reach, strict=True)],
                "thickness": 1,
                "width": 3,
                "color": DENSE,
                "visible": any(point.ends for point in points),
            },
        )
    )


def add_horizontals(figure: go.Figure, lines: Sequence[Line]) -> None:
    """Those inside the y axis, with their names at the right, moved apart."""
    low, high = figure.layout.yaxis.range
    lines = sorted((line for line in lines if low <= line.y <= high), key=lambda line: line.y)
    figure.update_layout(margin_r=min(220, 24 + 7 * max((len(line.name) for line in lines), default=0)))
    gap = GAP * (high - low)
    places = spread([line.y for line in lines], gap, low + gap / 2, high - gap / 2)
    for line, place in zip(lines, places, strict=True):
        ours = line.color == DENSE
        shape = {"color": line.color, "width": 1.6 if ours else 1, "dash": "solid" if ours else "dot"}
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=line.y, y1=line.y, line=shape, layer="below")
        figure.add_annotation(
            x=1,
            xref="paper",
            y=place,
            xanchor="left",
            xshift=4,
            showarrow=False,
            align="left",
            text=f"<b>{escape(line.name)}</b>" if ours else escape(line.name),
            font={"color": line.color, "size": 11},
            hovertext=line.hover,
        )


def add_word(figure: go.Figure, text: str) -> None:
    """In the middle of a plot that would be empty."""
    figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text=text, showarrow=False, font={"size": 13})
