"""Figures as texts, and tables as Markdown: the one way in which tables, pages and plots write them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from rich.markup import escape

from edgenetllm.printable import single_line
from edgenetllm.report.bootstrap import Estimate, Retention
from edgenetllm.tasks.task import Metric


def metric_name(metric: Metric) -> str:
    """`mean JCT [s] ↓`"""
    return f"{metric.label}{bracketed(metric.unit)} {'↑' if metric.higher_is_better else '↓'}"


def bracketed(unit: str) -> str:
    """` [s]`, nothing without a unit."""
    return f" [{unit}]" if unit else ""


def estimate_text(figure: Estimate | None) -> str:
    """`1.055 [0.943, 1.173]`; of one episode only the mean, as it has no interval."""
    if figure is None:
        return "–"
    mean, low, high = (f"{value:.3f}" for value in (figure.mean, *figure.ci95))
    return mean if figure.n == 1 and figure.ci95[0] == figure.ci95[1] else f"{mean} [{low}, {high}]"


def retention_text(retention: Retention | None) -> str:
    """`99.4 % [97.7, 101.1]`"""
    if retention is None:
        return "undefined"
    mean, low, high = (f"{100 * value:.1f}" for value in (retention.mean, *retention.ci95))
    return f"{mean} % [{low}, {high}]"


def percent(fraction: float) -> str:
    """`40 %`"""
    return f"{100 * fraction:g} %"


def count(number: int, what: str) -> str:
    """`1 run`, `3 runs`"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def megabytes(size: float) -> str:
    """`35.1`, and of less than a megabyte `0.121`."""
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table whose first `left` columns are texts, the others numbers (right-aligned)."""
    return [_row(header), "|" + "---|" * left + "---:|" * (len(header) - left), *map(_row, rows)]


def markdown(text: str) -> str:
    """The text as Markdown shows it: no HTML, code, link or line of its own comes of it. Stars stay, for bold cells."""
    escaped = html.escape(single_line(text), quote=False)
    return escaped.replace("|", "\\|").replace("`", "\\`").replace("](", "]\\(")


def markdown_line(text: str) -> str:
    """`markdown`, for a line outside of a table, where a bar means nothing."""
    return markdown(text).replace("\\|", "|")


def html_text(text: str) -> str:
    """The text as a page shows it, in an element or in quotes: no HTML comes of it, and no control character."""
    return html.escape(single_line(text))


def rich_text(text: str) -> str:
    """The text as rich shows it in a table or a line: no markup of its own comes of it, nor a line."""
    return escape(single_line(text))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown, cells)) + " |"
