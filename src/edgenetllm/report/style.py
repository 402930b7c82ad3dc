"""How plots look: one colour per policy, the same in every plot, safe for colour-blind readers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgenetllm.files import write_atomic

DPI = 150
# Okabe and Ito's palette; our models in its strongest two, baselines thinner and with dashes of their own.
OURS = {"dense": "#0072B2", "sparse": "#D55E00"}
BASELINES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def style_of(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Line options of a policy among all the `names` of the plot."""
    if name in OURS:
        # Where they agree, the sparse line's dashes lie on the dense line and both can be seen.
        width, dash, order = (2.8, "-", 3) if name == "dense" else (1.8, "--", 4)
        return {"label": name, "color": OURS[name], "linewidth": width, "linestyle": dash, "zorder": order}
    number = [other for other in names if other not in OURS].index(name)
    return {
        "label": name,
        "color": BASELINES[number % len(BASELINES)],
        "linewidth": 1.2,
        "linestyle": DASHES[number % len(DASHES)],
        "zorder": 2,
    }


def tidy(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(True, color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path | str) -> None:
    """Write a png, atomically, with matplotlib's Agg canvas: no display and no pyplot state are touched."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomic(path, buffer.getvalue())
