"""One question: what came, and what each policy predicted; and how the error grows with the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from edgenetllm.plotting import policies_of, policy_order, save, select, style_of, tidy
from edgenetllm.tasks.supervised.timeline import answers_of, columns_of, horizon_errors

REQUIRED = ("answer", "error", "rows", "history")
MOST_PANELS = 6


def timeline(replay: pa.Table, episode: str, policies: Sequence[str], path: Path | str) -> None:
    """A panel for each answer column, the first `MOST_PANELS`: what came, and what each policy predicted, row by row."""
    everyone = policies_of(replay)
    rows_of = {name: answers_of(select(replay, name, episode)) for name in policies}
    right = next(iter(rows_of.values()))[0]
    panels = min(right.shape[1], MOST_PANELS)
    figure = Figure(figsize=(8.0, 1.2 + 2.0 * panels), layout="constrained")
    ahead = 1 + np.arange(len(right))
    for number, axes in enumerate(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]):
        axes.plot(ahead, right[:, number], color="#8C8C8C", linewidth=2.4, label="recorded", zorder=1)
        for name, (_, given) in rows_of.items():
            axes.plot(ahead, given[:, number], **style_of(name, everyone))
        axes.set_ylabel(f"answer {number + 1}")
        tidy(axes)
    axes.set_xlabel("rows ahead")
    figure.legend(handles=axes.get_lines(), loc="outside upper center", ncols=4, frameon=False, title=episode)
    save(figure, path)


def more(replay: pa.Table, folder: Path) -> dict[str, Path]:
    """The mean absolute error of every policy against the horizon, a panel for each of the first answer columns."""
    names = policy_order(policies_of(replay))
    columns = columns_of(replay)
    figure = Figure(figsize=(8.0, 1.0 + 2.4 * min(columns, MOST_PANELS)), layout="constrained")
    for number, axes in enumerate(figure.subplots(min(columns, MOST_PANELS), 1, sharex=True, squeeze=False)[:, 0]):
        for name in names:
            rows = horizon_errors(select(replay, name), "error", columns)[:, number]
            axes.plot(1 + np.arange(len(rows)), rows, **style_of(name, names))
        axes.set_ylabel(f"MAE of answer {number + 1}")
        axes.set_ylim(bottom=0)
        tidy(axes)
    axes.set_xlabel("rows ahead")
    figure.legend(handles=axes.get_lines(), loc="outside upper center", ncols=4, frameon=False)
    path = folder / "error_by_horizon.png"
    save(figure, path)
    return {"error against horizon": path}
