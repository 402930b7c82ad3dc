"""Parts of plots that reports and tasks share: how each policy looks, distributions, png files, and the rows of a replay."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from edgenetllm.files import write_atomic

DPI = 150
# Okabe and Ito's palette; our models in its strongest two, baselines thinner and with dashes of their own.
OURS = {"dense": "#0072B2", "sparse": "#D55E00"}
BASELINES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def policy_order(names: Sequence[str]) -> list[str]:
    """Dense, then sparse, then the others as they come."""
    return [name for name in OURS if name in names] + [name for name in names if name not in OURS]


def policies_of(replay: pa.Table) -> list[str]:
    """Names of the policies of a `replay.parquet`, in the order in which they were written."""
    return list(pc.unique(replay["policy"].cast(pa.string())).to_pylist())


def select(replay: pa.Table, policy: str, episode: str | None = None) -> pa.Table:
    """The decisions of one policy, of all episodes or of one, in order."""
    keep = pc.equal(replay["policy"].cast(pa.string()), policy)
    if episode is not None:
        keep = pc.and_(keep, pc.equal(replay["episode"].cast(pa.string()), episode))
    return replay.filter(keep)


def style_of(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Line options of a policy among all the `names` of the plot."""
    if name in OURS:
        # Where they agree, the sparse line's dashes lie on the dense line and both can be seen.
        width, dash, order = (2.8, "-", 3) if name == "dense" else (1.8, "--", 4)
        return {"label": name, "color": OURS[name], "linewidth": width, "linestyle": dash, "zorder": order}
    number = [other for other in names if other not in OURS].index(name)
    color, dash = BASELINES[number % len(BASELINES)], DASHES[number % len(DASHES)]
    return {"label": name, "color": color, "linewidth": 1.2, "linestyle": dash, "zorder": 2}


def tidy(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(True, color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path | str) -> None:
    """Write a png, atomically, with matplotlib's Agg canvas: no display and no pyplot state are touched."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]  # a name with dollars is no formula
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomic(path, buffer.getvalue())


def draw_cdf(
    samples: Mapping[str, npt.NDArray[np.float64]],
    label: str,
    unit: str,
    what: str,
    higher_is_better: bool,
    path: Path | str,
) -> None:
    """The distribution of a figure: a step line per policy, the share of its values up to each value.

    `samples`: policy -> (values,); `what` a value is of: an episode, a job.
    """
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    names = policy_order(list(samples))
    for name in names:
        values = np.sort(samples[name])
        steps = np.arange(len(values) + 1) / len(values)
        axes.step(np.r_[values[:1], values], steps, where="post", **style_of(name, names))
    bracketed = f" [{unit}]" if unit else ""
    axes.set_xlabel(f"{label} per {what}{bracketed}, {'right' if higher_is_better else 'left'} is better")
    _limit(axes, samples)
    axes.set_ylabel(f"share of {what}s")
    axes.set_ylim(0, 1.01)
    figure.legend(loc="outside right upper", frameon=False)
    tidy(axes)
    save(figure, path)


def _limit(axes: Axes, samples: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Show all of our models and what lies near; a poor baseline's long tail is cut, and the plot says so."""
    everything = np.concatenate(list(samples.values()))
    focus = np.concatenate([samples[name] for name in OURS if name in samples] or [everything])
    reach = 0.5 * (focus.max() - focus.min())
    low, high = max(everything.min(), focus.min() - reach), min(everything.max(), focus.max() + reach)
    if high > low:
        margin = 0.03 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    outside = int(((everything < low) | (everything > high)).sum())
    if outside:
        span = f"{everything.min():.3g} to {everything.max():.3g}"
        note = f"{outside} of {len(everything)} values lie outside; all span {span}"
        axes.set_title(note, fontsize=8, color="#606060", loc="left")
