"""One question: where the viewer looked, and where each policy predicted; and how the error grows with the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgenetllm.plotting import policies_of, policy_order, save, select, style_of, tidy
from edgenetllm.tasks.supervised.angles import unwrapped
from edgenetllm.tasks.supervised.timeline import answers_of, history_of, horizon_errors
from edgenetllm.tasks.vp.data.recordings import AXES
from edgenetllm.tasks.vp.data.sources import HERTZ

REQUIRED = ("answer", "error", "rows", "history", "sphere")
PERIODS = np.full(len(AXES), 360.0)

Rows = npt.NDArray[np.float64]


def timeline(replay: pa.Table, episode: str, policies: Sequence[str], path: Path | str) -> None:
    """Three panels that share the time in seconds: roll, pitch and yaw of the viewer, and of each policy's answers."""
    everyone = policies_of(replay)
    figure = Figure(figsize=(8.0, 5.6), layout="constrained")
    panels = figure.subplots(len(AXES), 1, sharex=True)
    # The history and what really came, from any policy's rows; then each policy from the last known row on.
    known = history_of(select(replay, policies[0], episode), len(AXES))
    right, _ = answers_of(select(replay, policies[0], episode))
    _draw(panels, known, right, {"label": "viewer", "color": "#8C8C8C", "linewidth": 2.4, "zorder": 1}, whole=True)
    for name in policies:
        _, given = answers_of(select(replay, name, episode))
        _draw(panels, known, given, style_of(name, everyone), whole=False)
    # Labels and limits of the axes, and the legend.
    for axes, axis in zip(panels, AXES, strict=True):
        axes.axvline(0, color="#404040", linewidth=0.8)
        axes.set_ylabel(f"{axis} [°]")
        tidy(axes)
    panels[-1].set_xlabel("time from now [s]")
    handles = panels[0].get_lines()
    named = [handle for handle in handles if not str(handle.get_label()).startswith("_")]
    figure.legend(handles=named, loc="outside upper center", ncols=4, frameon=False, title=episode)
    figure.align_ylabels()
    save(figure, path)


def more(replay: pa.Table, folder: Path) -> dict[str, Path]:
    """The error of every policy against the horizon: mean over the axes, and on the sphere."""
    names = policy_order(policies_of(replay))
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    kinds = (("error", len(AXES), "mean absolute error of the axes [°]"), ("sphere", 1, "great circle [°]"))
    for axes, (name_of, columns, title) in zip(panels, kinds, strict=True):
        for name in names:
            rows = horizon_errors(select(replay, name), name_of, columns).mean(1)
            axes.plot((1 + np.arange(len(rows))) / HERTZ, rows, **style_of(name, names))
        axes.set_xlabel("seconds ahead")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        tidy(axes)
    figure.legend(handles=panels[0].get_lines(), loc="outside upper center", ncols=4, frameon=False)
    path = folder / "error_by_horizon.png"
    save(figure, path)
    return {"error against horizon": path}


def _draw(panels: Sequence[Axes], known: Rows, ahead: Rows, style: dict[str, object], whole: bool) -> None:
    """The rows ahead, from the last known one on, without jumps; with `whole` the history too."""
    rows = unwrapped(np.concatenate([known, ahead])[None], PERIODS)[0]
    first = 0 if whole else len(known) - 1
    time_s = (np.arange(len(rows)) - len(known) + 1) / HERTZ
    for axes, column in zip(panels, rows[first:].T, strict=True):
        axes.plot(time_s[first:], column, **style)  # type: ignore[arg-type]
