"""Series of a comparison page: the groups that a line joins, and how it looks, the same in every plot of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgenetllm.compare.page_groups import Group
from edgenetllm.compare.page_sections import Section
from edgenetllm.compare.retention_table import named
from edgenetllm.report.style import BASELINES, OURS

# Colours must stand out on white and on black: the palette of the other plots, without its black and its grey.
COLORS = (OURS["sparse"], *(color for color in BASELINES if color not in ("#000000", "#8C8C8C")), "#8E6BD1", "#A6761D")
GREY = "#858B94"  # controls, baselines
DENSE = "#2E86D6"  # the dense blue of the other plots, lighter: it must be seen on black, too
SYMBOLS = ("circle", "square", "diamond", "pentagon", "hexagon", "cross", "x")
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Look:
    """The look of a series: colour says method and variant; dash and hollow marker, the recovery; shape, model, stored values
    and variant."""

    color: str
    symbol: str
    dash: str


@dataclass(frozen=True, eq=False)
class Series:
    """Groups that differ in nothing but their sparsity."""

    key: str  # unique in its section
    policy: str  # method and recovery
    name: str  # with variant, and with model and values where the section has several
    model: str
    look: Look
    groups: Sequence[Group]


Hue = tuple[str, str]  # method, variant


def palette(sections: Sequence[Section]) -> tuple[dict[Hue, str], dict[str, str]]:
    """Colour of every method and variant, and dash of every recovery of the page."""
    groups = [group for section in sections for group in section.groups]
    methods = dict.fromkeys((group.method, group.variant) for group in groups if group.method is not None)
    recoveries = sorted({group.recovery for group in groups if group.recovery is not None})
    return (
        {method: COLORS[number % len(COLORS)] for number, method in enumerate(methods)},
        {recovery: DASHES[number % len(DASHES)] for number, recovery in enumerate(recoveries)},
    )


def make_series(section: Section, colors: Mapping[Hue, str], dashes: Mapping[str, str]) -> list[Series]:
    """In the order of the section's groups. `colors`, `dashes`: see `palette`."""
    models = list(dict.fromkeys(group.model for group in section.groups))
    values = list(dict.fromkeys(group.values for group in section.groups))
    shapes = list(dict.fromkeys((group.model, group.values, group.variant) for group in section.groups))
    found: dict[tuple[str, bool], list[Group]] = {}
    for group in section.groups:
        found.setdefault((group.line, group.sparsity == 1), []).append(group)
    series = []
    for number, groups in enumerate(found.values()):
        first = groups[0]
        name = policy = named(first.method, first.recovery)
        name += f", {first.variant}" if first.variant else ""
        name += f", {first.values}" if len(values) > 1 and first.values else ""
        name += f", {first.model}" if len(models) > 1 else ""
        symbol = SYMBOLS[shapes.index((first.model, first.values, first.variant)) % len(SYMBOLS)]
        look = Look(
            color=GREY if first.method is None else colors[first.method, first.variant],
            symbol=("star" if first.method is None else symbol) + ("-open" if first.recovery else ""),
            dash=dashes[first.recovery] if first.recovery else "solid",
        )
        series.append(Series(f"s{number}", policy, name, first.model, look, groups))
    return series
