"""Plots of any task, from `results.json`, `metrics.parquet` and `replay.parquet` alone.

A task may add plots of its own: a module `<task>_timeline.py` in this package, with `REQUIRED` (the record columns it reads),
`timeline(replay, episode, policies, path)` of a single episode, and if it likes `more(replay, folder)`, which draws others
and returns what they show -> png. `draw_plots` finds it by that name.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from edgenetllm.report.cdf import draw_cdf
from edgenetllm.report.layers import layer_rows
from edgenetllm.report.layers_plot import layer_map
from edgenetllm.report.metrics_file import EpisodeMetrics
from edgenetllm.report.results import Results
from edgenetllm.report.table import FIRST, policy_order
from edgenetllm.tasks.task import Metric


def draw_plots(results: Results, episodes: EpisodeMetrics, replay: pa.Table, folder: Path | str) -> dict[str, Path]:
    """Draw every plot that the files allow into `folder`: what it shows -> png."""
    folder = Path(folder)
    metric = next(iter(results.metrics.values()))
    paths = {f"{metric.label} CDF": folder / f"{metric.name}_cdf.png"}
    metric_cdf(episodes, metric, folder / f"{metric.name}_cdf.png")
    module = _timeline_module(results.task)
    if module is not None and set(module.REQUIRED) <= set(replay.column_names):
        path = folder / "timeline.png"
        module.timeline(replay, typical_episode(episodes, metric), timeline_policies(episodes, metric), path)
        paths["timeline"] = path
        if hasattr(module, "more"):
            paths |= module.more(replay, folder)
    layers = layer_rows(results)
    if layers:
        paths["layer map"] = folder / "layers.png"
        layer_map(layers, paths["layer map"])
    return paths


def _timeline_module(task: str) -> ModuleType | None:
    package = f"edgenetllm.tasks.{task}"  # a task of another package has none
    found = importlib.util.find_spec(package) and importlib.util.find_spec(f"{package}.timeline")
    return importlib.import_module(f"{package}.timeline") if found else None


def timeline_policies(episodes: EpisodeMetrics, metric: Metric) -> list[str]:
    """Dense, sparse and the best baseline by the metric."""
    played = episodes.of(metric)
    ours = [name for name in policy_order(list(played)) if name in FIRST]
    sign = -1 if metric.higher_is_better else 1
    baselines = sorted(set(played) - set(ours), key=lambda name: (sign * float(played[name].mean()), name))
    return ours + baselines[:1]


def typical_episode(episodes: EpisodeMetrics, metric: Metric) -> str:
    """The episode whose metric, under the first policy, is the median: neither the best nor the worst."""
    played = episodes.of(metric)
    values = played[policy_order(list(played))[0]]
    ascending = values if metric.higher_is_better else -values
    return episodes.episodes[int(np.argsort(ascending, kind="stable")[len(values) // 2])]


def metric_cdf(episodes: EpisodeMetrics, metric: Metric, path: Path | str) -> None:
    """Share of episodes up to each value of the metric, one step line per policy."""
    draw_cdf(episodes.of(metric), metric.label, metric.unit, "episode", metric.higher_is_better, path)
