"""The plots of a comparison page, drawn by Plotly from charts."""

from __future__ import annotations

import json
import math
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from edgenetllm.compare.charts import Chart, DensePoint, Horizontal, Line, Triangle
from edgenetllm.compare.sections import Group, Section
from edgenetllm.compare.series import DENSE, GREY
from edgenetllm.report.text import estimate_text, html_text, megabytes, metric_name, percent, retention_text

HEIGHT = 380  # pixels
MAX_LABELLED_LINES = 4  # lines, up to which each has its own text
HIGHEST_LABEL_ABOVE = 0.85  # of the height, from which a name has no room above its point
NOT_PLAYED = "<br>quality as played in fp32: this encoding was not played"


def to_json(figure: go.Figure) -> str:
    """The figure as JSON for a `script` element, which only `<` could end."""
    return json.dumps(figure.to_plotly_json(), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def draw_chart(chart: Chart, section: Section) -> go.Figure:
    """The figure. Colours of text and grid are missing: the page sets them for light and dark."""
    # Axes and frame.
    axis: dict[str, Any] = {"zeroline": False, "showline": True, "ticks": "outside"}
    names = [line.name for line in chart.horizontals]
    figure = go.Figure(
        layout=go.Layout(
            template="none",
            title={"text": chart.title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
            xaxis={**axis, "title": {"text": html_text(chart.x), "standoff": 8}, **_x_axis(chart)},
            yaxis={**axis, "title": {"text": html_text(chart.y), "standoff": 8}, "range": list(chart.ends)},
            height=HEIGHT,
            margin={"l": 64, "r": min(220, 24 + 7 * max(map(len, names), default=0)), "t": 40, "b": 52},
            showlegend=False,
            hovermode="closest",
            hoverlabel={"align": "left"},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
        )
    )
    # Lines, points beyond the axis, dense models and baselines.
    few = len({line.series.key for line in chart.lines}) <= MAX_LABELLED_LINES
    for line in chart.lines:
        if line.points:
            figure.add_trace(_line(section, line, named=bool(line.text) and few))
    for triangle in chart.triangles():
        figure.add_annotation(_triangle(section, triangle, chart.log))
    for group, points in chart.dense:
        if points:
            figure.add_trace(_dense(chart, section, group, points))
    for one in chart.horizontals:
        _add_horizontal(figure, one)
    # A word where there is nothing to draw.
    if chart.word:
        middle = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False, "font": {"size": 13}}
        figure.add_annotation(text=chart.word, **middle)
    return figure


def _x_axis(chart: Chart) -> dict[str, Any]:
    if chart.x_ends is None:
        return {"rangemode": "tozero"}
    if not chart.log:
        return {"range": list(chart.x_ends), "dtick": 10}
    low, high = chart.x_ends
    ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _bars(values: list[float], ends: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    """Error bars from each value to its ends."""
    above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3, **more}


def _line(section: Section, line: Line, named: bool) -> go.Scatter:
    one, points, look = line.series, line.points, line.series.look
    before = f"{html_text(line.text)}<br>" if line.text else ""
    return go.Scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        mode="lines+markers+text" if named else "lines+markers",
        name=html_text(one.name),
        meta={"series": one.key, "model": one.model},
        customdata=[section.row_id(point.group) for point in points],
        hovertext=[before + hover_text(section, one.name, point.group) for point in points],
        hoverinfo="text",
        text=[""] * (len(points) - 1) + [html_text(line.text)],
        textposition="top center",
        textfont={"size": 10},
        line={"color": look.color, "dash": look.dash, "width": 1.8},
        marker={
            "symbol": look.symbol,
            "color": look.color,
            "size": 10 if "star" in look.symbol else 8,
            "line": {"width": 1.8, "color": look.color},
        },
        error_y=_bars([point.y for point in points], [point.ends for point in points]),
    )


def _triangle(section: Section, triangle: Triangle, log: bool) -> go.layout.Annotation:
    one, point, below = triangle.line.series, triangle.point, triangle.below
    return go.layout.Annotation(
        name=one.key,
        x=math.log10(point.x) if log else point.x,
        y=0 if below else 1,
        yref="paper",
        yanchor="bottom" if below else "top",
        yshift=(1 if below else -1) * 13 * triangle.level,
        text="▼" if below else "▲",
        font={"color": one.look.color, "size": 13},
        showarrow=False,
        hovertext=f"beyond the axis:<br>{hover_text(section, one.name, point.group)}",
    )


def _dense(chart: Chart, section: Section, group: Group, points: list[DensePoint]) -> go.Scatter:
    """The dense models of a group, named, and where there are several groups by theirs; hollow if they were not played."""
    # The names stand above the points, or below where these are near the upper edge.
    mean, x = group.metric.mean, [point.x for point in points]
    above = mean <= chart.ends[0] + HIGHEST_LABEL_ABOVE * (chart.ends[1] - chart.ends[0])
    model = f"{group.model}, {group.variant}" if group.variant else group.model
    texts = [html_text(point.name) for point in points]
    if len(section.dense) > 1:  # the name of the model once, in the middle
        middle = len(texts) // 2
        texts[middle] = "<br>".join([html_text(model), texts[middle]][:: 1 if above else -1])
    # The points, all at the height of the mean.
    hover = hover_text(section, "dense", group)
    return go.Scatter(
        x=x,
        y=[mean] * len(points),
        mode="lines+markers+text",
        name=html_text(f"dense {group.model}"),
        meta={"series": "dense", "model": group.model},
        customdata=[section.row_id(group)] * len(points),
        text=texts,
        textposition="top center" if above else "bottom center",
        cliponaxis=False,
        textfont={"color": DENSE, "size": 11},
        hovertext=[f"{html_text(p.name)}: {p.x:.4g}<br>{hover}{'' if p.played else NOT_PLAYED}" for p in points],
        hoverinfo="text",
        line={"color": DENSE, "width": 1.2},
        marker={
            "symbol": ["diamond" if point.played else "diamond-open" for point in points],
            "size": 11,
            "color": DENSE,
            "line": {"width": 1.8, "color": DENSE},
        },
        error_x=_bars(x, [p.ends or (p.x, p.x) for p in points], color=DENSE, visible=any(p.ends for p in points)),
    )


def _add_horizontal(figure: go.Figure, line: Horizontal) -> None:
    """A line with its name at the right."""
    color = DENSE if line.ours else GREY
    shape = {"color": color, "width": 1.6 if line.ours else 1, "dash": "solid" if line.ours else "dot"}
    figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=line.y, y1=line.y, line=shape, layer="below")
    figure.add_annotation(
        x=1,
        xref="paper",
        y=line.place,
        xanchor="left",
        xshift=4,
        showarrow=False,
        align="left",
        text=f"<b>{html_text(line.name)}</b>" if line.ours else html_text(line.name),
        font={"color": color, "size": 11},
        hovertext=html_text(line.hover),
    )


def hover_text(section: Section, name: str, group: Group) -> str:
    """All figures of a group, as HTML lines."""
    title = name if group.policy == "dense" or group.sparsity == 1 else f"{name} at {percent(group.sparsity)}"
    lines = [f"<b>{html_text(title)}</b>", html_text(group.model)]
    lines += [html_text(group.variant)] if group.variant and group.variant not in name else []
    lines.append(html_text(f"{metric_name(section.metric)}: {estimate_text(group.metric)}"))
    if group.policy == "sparse":
        lines.append(f"retention: {retention_text(group.retention)}")
    for engine, latency in group.latency.items():
        ratio = f" ({latency.to_dense:.2f} × dense)" if latency.to_dense is not None else ""
        lines.append(html_text(f"{engine}: {latency.ms:.1f} ms{ratio}"))
    if "bundle" in group.sizes:
        lines.append(f"bundle: {megabytes(group.sizes['bundle'])} MB")
    seeds = ", ".join(map(str, group.seeds))
    lines.append(f"seed{'s' if len(group.seeds) > 1 else ''} {seeds}; interval over {group.figures.basis}")
    return "<br>".join(lines)
