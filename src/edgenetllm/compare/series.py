"""Series of groups: what a line joins, and how it looks, the same in every plot of a page and in a study's picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from edgenetllm.compare.runs import named
from edgenetllm.compare.sections import Group
from edgenetllm.compare.study import Cell
from edgenetllm.plotting import BASELINES, OURS

# Colours must stand out on white and on black: the palette of the other plots, without its black and its grey.
COLORS = (OURS["sparse"], *(color for color in BASELINES if color not in ("#000000", "#8C8C8C")), "#8E6BD1", "#A6761D")
GREY = "#858B94"  # controls, baselines
DENSE = "#2E86D6"  # the dense blue of the other plots, lighter: it must be seen on black, too
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "pentagon",
    "hexagon",
    "cross",
    "x",
    "triangle-left",
)  # one more than colours: no two methods look alike
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")


Measured = Group | Cell  # sparse models of one kind: of the runs at hand, or of a stored study
M = TypeVar("M", bound=Measured)


class Look(NamedTuple):
    """The look of a series: colour says method and variant; dash and hollow marker, the recovery; shape, all the others."""

    color: str
    symbol: str  # Plotly's names, as those of the dashes
    dash: str


@dataclass(frozen=True, eq=False)
class Series(Generic[M]):
    """Groups that differ in nothing but their sparsity."""

    key: str  # unique in its section
    policy: str  # method and recovery
    name: str  # with variant, and with model and values where the section has several
    model: str
    look: Look
    groups: Sequence[M]


class Palette:
    """Colour of every method and variant, and dash of every recovery, of a page."""

    def __init__(self, groups: Sequence[Measured]) -> None:
        self.hues = list(dict.fromkeys((group.method, group.variant) for group in groups if group.method is not None))
        self.recoveries = sorted({group.recovery for group in groups if group.recovery is not None})

    def look(self, group: Measured, shape: int) -> Look:
        if group.method is None:
            color, symbol = GREY, "star"
        else:
            number = self.hues.index((group.method, group.variant))
            color, symbol = COLORS[number % len(COLORS)], SYMBOLS[shape % len(SYMBOLS)]
        if not group.recovery:
            return Look(color, symbol, "solid")
        return Look(color, f"{symbol}-open", DASHES[self.recoveries.index(group.recovery) % len(DASHES)])


def make_series(groups: Sequence[M], palette: Palette | None = None) -> list[Series[M]]:
    """Series in the order of the groups; each with a look of its own palette, if not of that of the page."""
    palette = palette or Palette(groups)
    models = list(dict.fromkeys(group.model for group in groups))
    values = list(dict.fromkeys(group.values for group in groups))
    shapes = list(dict.fromkeys((group.model, group.values, group.method, group.variant) for group in groups))
    groups_by_line: dict[tuple[str, bool], list[M]] = {}
    for group in groups:
        groups_by_line.setdefault((group.line, group.sparsity == 1), []).append(group)
    series = []
    for number, members in enumerate(groups_by_line.values()):
        first = members[0]
        name = named(first.method, first.recovery, first.variant)
        name += f", {first.values}" if len(values) > 1 and first.values else ""
        name += f", {first.model}" if len(models) > 1 else ""
        look = palette.look(first, shapes.index((first.model, first.values, first.method, first.variant)))
        series.append(Series(f"s{number}", named(first.method, first.recovery), name, first.model, look, members))
    return series
