"""Texts of a comparison page: figures with their units, and the names by which plots and tables refer to each other."""

from __future__ import annotations

import hashlib
from html import escape

from edgenetllm.compare.page_groups import Group
from edgenetllm.compare.page_sections import Section
from edgenetllm.compare.retention_table import percent
from edgenetllm.report.results import Estimate, Retention
from edgenetllm.tasks.task import Metric


def metric_name(metric: Metric) -> str:
    """`mean JCT [s] ↓`"""
    unit = f" [{metric.unit}]" if metric.unit else ""
    return f"{metric.label}{unit} {'↑' if metric.higher_is_better else '↓'}"


def estimate(figures: Estimate) -> str:
    """`1.055 [0.943, 1.173]`, `263.8 [221.9, 310.1]`; of one episode only the mean, as it has no interval."""
    size = abs(figures.mean)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 3
    mean, low, high = (f"{value:.{digits}f}" for value in (figures.mean, *figures.ci95))
    return mean if figures.n == 1 and figures.ci95[0] == figures.ci95[1] else f"{mean} [{low}, {high}]"


def share(retention: Retention | None) -> str:
    """`99.4 % [97.7, 101.1]`"""
    if retention is None:
        return "undefined"
    mean, low, high = (f"{100 * value:.1f}" for value in (retention.mean, *retention.ci95))
    return f"{mean} % [{low}, {high}]"


def megabytes(size: float) -> str:
    """`35.1`, four digits at most, bytes of small models as `0.121`."""
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"


def count(number: int, what: str) -> str:
    """`1 run`, `3 runs`"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def group_name(group: Group, name: str) -> str:
    """`alps at 90 %`, `dense`, `100 % sparse`"""
    return name if group.policy == "dense" or group.sparsity == 1 else f"{name} at {percent(group.sparsity)}"


def hover_text(section: Section, name: str, group: Group) -> str:
    """All figures of a group, as HTML lines."""
    figures = group.figures
    lines = [f"<b>{escape(group_name(group, name))}</b>", escape(group.model)]
    lines += [escape(group.variant)] if group.variant and group.variant not in name else []
    lines.append(escape(f"{metric_name(section.metric)}: {estimate(figures.metric)}"))
    if group.policy == "sparse":
        lines.append(f"retention: {share(figures.retention)}")
    for engine, found in group.latency.items():
        ratio = f" ({found.to_dense:.2f} × dense)" if found.to_dense is not None else ""
        lines.append(escape(f"{engine}: {found.ms:.1f} ms{ratio}"))
    if "bundle" in group.sizes:
        lines.append(f"bundle: {megabytes(group.sizes['bundle'])} MB")
    seeds = ", ".join(map(str, group.seeds))
    lines.append(f"seed{'s' if len(group.seeds) > 1 else ''} {seeds}; interval over {figures.basis}")
    return "<br>".join(lines)


def section_id(section: Section) -> str:
    """The same whenever the page is made again, so that links into it stay good."""
    return "c" + _digest(section.task, section.data, section.data_hash, section.metric.name)


def row_id(section: Section, group: Group) -> str:
    """The id of a group's row in its table."""
    return section_id(section) + "-" + _digest(group.policy, group.key)


def _digest(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:10]
