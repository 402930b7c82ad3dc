"""Plots of any task, from `results.json`, `metrics.parquet` and `replay.parquet` alone.

A task may plot one of its episodes, by a module that its results name: see `Task.timeline`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from edgenetllm.errors import UserError
from edgenetllm.parquet_file import numbers
from edgenetllm.plotting import OURS, draw_cdf, policy_order, select
from edgenetllm.printable import say
from edgenetllm.report.episodes import METRICS_FILE, REPLAY_FILE, EpisodeMetrics
from edgenetllm.report.layers import layer_rows
from edgenetllm.report.layers_plot import layer_map
from edgenetllm.report.results import Results
from edgenetllm.tasks.task import Metric

TASKS = "edgenetllm.tasks."
OLDER = {task: f"{TASKS}{task}.timeline" for task in ("abr", "cjs")}  # where results do not say it


def draw_plots(
    results: Results, episodes: EpisodeMetrics, replay: pa.Table, folder: Path | str, trusted: Sequence[str] = ()
) -> dict[str, Path]:
    """Draw every plot that the files allow into `folder`: what it shows -> png.

    `trusted`: packages whose timeline may be imported; of any other a note says that it is not drawn.
    """
    folder, metric = Path(folder), results.metric
    try:
        module = timeline_module(results, trusted)
    except UserError as error:
        say(f"note: no timeline: {error}", file=sys.stderr)
        module = None
    if not episodes.of(metric):
        raise UserError(f"{folder.parent}: {METRICS_FILE} has no {metric.name} of any policy that was played")
    paths = {f"{metric.label} CDF": folder / f"{metric.name}_cdf.png"}
    cdf = paths[f"{metric.label} CDF"]
    draw_cdf(episodes.of(metric), metric.label, metric.unit, "episode", metric.higher_is_better, cdf)
    if module is not None and set(module.REQUIRED) <= set(replay.column_names):
        paths["timeline"] = folder / "timeline.png"
        placed = () if results.placement is None else results.placement.rows
        policies, episode = timeline_policies(episodes, metric, placed), typical_episode(episodes, metric)
        _check_plotted(replay, module.REQUIRED, policies, episode, folder.parent / REPLAY_FILE)
        module.timeline(replay, episode, policies, paths["timeline"])
        if hasattr(module, "more"):
            paths |= module.more(replay, folder)
    layers = layer_rows(results)
    if layers:
        paths["layer map"] = folder / "layers.png"
        layer_map(layers, paths["layer map"])
    return paths


def _check_plotted(replay: pa.Table, columns: Sequence[str], policies: Sequence[str], episode: str, path: Path) -> None:
    """Raises UserError where the replay cannot be plotted: a column that is no numbers, a policy without this episode."""
    for name in columns:
        numbers(replay, name, path, lists=True)
    for policy in policies:
        if not len(select(replay, policy, episode)):
            raise UserError(f"{path}: no decision of {policy} in episode {episode}, which {METRICS_FILE} has")


def timeline_module(results: Results, trusted: Sequence[str]) -> ModuleType | None:
    """The module that plots an episode of the results' task; None where there is none.

    Results may be somebody else's: raises UserError, before anything is imported, for a module that lies neither among the
    tasks of this package nor in one of the `trusted` packages, and for one that is no such module.
    """
    name = OLDER.get(results.task, "") if results.timeline is None else results.timeline
    if not name:
        return None
    package = name.partition(".")[0]
    if not name.startswith(TASKS) and package not in trusted:
        raise UserError(f"{name} would draw it: if you trust that package, add --trust {package}")
    try:
        module = import_module(name)
    except ImportError as error:
        raise UserError(f"{name}, which would draw it, cannot be imported: {error}") from None
    if not (hasattr(module, "REQUIRED") and callable(getattr(module, "timeline", None))):
        raise UserError(f"{name} has no REQUIRED and timeline(), see Task.timeline")
    return module


def timeline_policies(episodes: EpisodeMetrics, metric: Metric, placed: Collection[str] = ()) -> list[str]:
    """Dense, sparse and the best baseline by the metric; rows that are `placed` are our models again."""
    played = episodes.of(metric)
    own_policies = [name for name in policy_order(list(played)) if name in OURS]
    sign = -1 if metric.higher_is_better else 1
    baselines = sorted(
        set(played) - {*own_policies, *placed}, key=lambda name: (sign * float(played[name].mean()), name)
    )
    return own_policies + baselines[:1]


def typical_episode(episodes: EpisodeMetrics, metric: Metric) -> str:
    """The episode whose metric, under the first policy, is the median: neither the best nor the worst."""
    played = episodes.of(metric)
    values = played[policy_order(list(played))[0]]
    ascending = values if metric.higher_is_better else -values
    return episodes.episodes[int(np.argsort(ascending, kind="stable")[len(values) // 2])]
