"""One scheduling episode: which job every executor works for, policy by policy, and how many jobs are waiting.

And the completion times of all jobs of all episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgenetllm.errors import UserError
from edgenetllm.parquet_file import numbers
from edgenetllm.plotting import draw_cdf, policies_of, save, select, style_of, tidy

REQUIRED = ("time_s", "until_s", "job_of_executor", "active_jobs")
COLUMNS = 1200  # of the picture: what happens in between is sampled
SPAN_S = 900.0  # of a longer episode, only so much around its busiest moment is shown


def timeline(replay: pa.Table, episode: str, policies: Sequence[str], path: Path | str) -> None:
    """A Gantt chart per policy over a common time axis: executors down, a colour per job, white where one idles or moves.

    `job_of_executor` is the state when the next decision is due, at `until_s`, and stands for the time since `time_s`; an
    executor that has just finished still counts for its stage. Below, the number of active jobs under each policy.
    """
    everyone = policies_of(replay)
    played = {name: select(replay, name, episode) for name in policies}
    begin, end = _busiest(played[policies[0]], max(_end(table) for table in played.values()))
    figure = Figure(figsize=(9.0, 1.6 + 1.7 * len(policies)), layout="constrained")
    panels = figure.subplots(len(policies) + 1, 1, sharex=True, height_ratios=[*([2.0] * len(policies)), 1.5])
    for axes, (name, table) in zip(panels, played.items(), strict=False):
        _gantt(axes, table, begin, end)
        busy = _busy_share(table)
        axes.set_title(
            f"{name}: {busy:.0%} of executor time at work, done after {_end(table):.0f} s", fontsize=9, loc="left"
        )
        axes.set_ylabel("executor")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for name, table in played.items():
        style = style_of(name, everyone)
        panels[-1].step(table["until_s"].to_numpy(), table["active_jobs"].to_numpy(), where="post", **style)
    panels[-1].set_ylabel("active jobs")
    panels[-1].set_ylim(bottom=0)
    panels[-1].set_xlabel("time [s]")
    panels[-1].set_xlim(begin, end)
    tidy(panels[-1])
    panels[-1].legend(frameon=False, fontsize=8, ncols=len(policies), loc="upper right")
    figure.suptitle(f"{episode}: a colour per job (they repeat)", fontsize=10)
    save(figure, path)


def more(replay: pa.Table, folder: Path) -> dict[str, Path]:
    """`job_cdf.png`: fraction of the jobs of all episodes up to each completion time; `jct_s` lists those of a decision."""
    if "jct_s" not in replay.column_names or not pa.types.is_list(replay.schema.field("jct_s").type):
        return {}
    path = folder / "job_cdf.png"
    numbers(replay, "jct_s", path.with_name("replay.parquet"), lists=True)
    times = {name: completion_times(select(replay, name)) for name in policies_of(replay)}
    times = {name: one for name, one in times.items() if len(one)}
    if not times:
        return {}
    draw_cdf(times, "JCT", "s", "job", False, path)
    return {"JCT of jobs CDF": path}


def completion_times(table: pa.Table) -> npt.NDArray[np.float64]:
    """Completion times in seconds, (jobs,)."""
    flat = table["jct_s"].combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float64)


def held_jobs(table: pa.Table) -> npt.NDArray[np.int64]:
    """Number of the job that each executor works for, -1 for none, (decisions, executors)."""
    lists = table["job_of_executor"].combine_chunks()
    if len(pc.unique(pc.list_value_length(lists))) > 1:
        raise UserError("replay.parquet: column job_of_executor has not the same number of executors in every row")
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False)).reshape(len(table), -1).astype(np.int64)


def _busiest(table: pa.Table, end: float) -> tuple[float, float]:
    """A span of SPAN_S seconds around the moment with the most active jobs, inside [0, end]."""
    peak = float(table["until_s"].to_numpy()[np.argmax(table["active_jobs"].to_numpy())])
    begin = max(0.0, min(peak - SPAN_S / 2, end - SPAN_S))
    return begin, min(end, begin + SPAN_S)


def _gantt(axes: Axes, table: pa.Table, begin: float, end: float) -> None:
    held = held_jobs(table)
    times = np.linspace(begin, end, COLUMNS, endpoint=False)
    starts, untils = table["time_s"].to_numpy(), table["until_s"].to_numpy()
    row = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, len(starts) - 1)
    picture = held[row]
    picture[times >= untils[row]] = -1
    palette = colormaps["tab20"].colors  # type: ignore[attr-defined]
    shown = np.where(picture >= 0, 1 + picture % len(palette), 0)
    axes.imshow(
        shown.T, aspect="auto", interpolation="nearest", origin="lower", extent=(begin, end, 0, held.shape[1]),
        cmap=ListedColormap(["white", *palette]), vmin=0, vmax=len(palette),
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _busy_share(table: pa.Table) -> float:
    held = held_jobs(table)
    lengths = table["until_s"].to_numpy() - table["time_s"].to_numpy()
    return float(((held >= 0).mean(1) * lengths).sum() / max(_end(table), 1e-9))


def _end(table: pa.Table) -> float:
    return float(table["until_s"].to_numpy().max())
