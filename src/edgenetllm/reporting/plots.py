"""Plots of any task, from `results.json` and `replay.parquet` alone.

A task may add a plot of a single episode: a module `<task>_timeline.py` beside this one, with `REQUIRED` (the record
columns it reads) and `timeline(replay, episode, policies, path)`. `draw_plots` finds it by that name.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgenetllm.reporting.episode_values import metric_column, per_episode, values_of
from edgenetllm.reporting.layers import layer_rows
from edgenetllm.reporting.layers_plot import layer_map
from edgenetllm.reporting.replay_file import episodes_of, policies_of
from edgenetllm.reporting.results import Results
from edgenetllm.reporting.style import save, style_of, tidy
from edgenetllm.reporting.table import FIRST, policy_order
from edgenetllm.tasks.task import Metric


def draw_plots(results: Results, replay: pa.Table, folder: Path | str) -> dict[str, Path]:
    """Draw every plot that the two files allow into `folder`: what it shows -> png."""
    folder = Path(folder)
    metric = next(iter(results.metrics.values()))
    paths = {f"{metric.label} CDF": folder / f"{metric.name}_cdf.png"}
    metric_cdf(replay, metric, folder / f"{metric.name}_cdf.png")
    module = _timeline_module(results.task)
    if module is not None and set(module.REQUIRED) <= set(replay.column_names):
        path = folder / "timeline.png"
        module.timeline(replay, typical_episode(replay), timeline_policies(replay), path)
        paths["timeline"] = path
    layers = layer_rows(results)
    if layers:
        paths["layer map"] = folder / "layers.png"
        layer_map(layers, paths["layer map"])
    return paths


def _timeline_module(task: str) -> ModuleType | None:
    name = f"edgenetllm.reporting.{task}_timeline"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def timeline_policies(replay: pa.Table) -> list[str]:
    """Dense, sparse and the best baseline by its episodes' sum of rewards."""
    names = policy_order(policies_of(replay))
    ours = [name for name in names if name in FIRST]
    baselines = sorted(
        set(names) - set(ours), key=lambda name: -float(per_episode(replay, name, "reward", "sum").mean())
    )
    return ours + baselines[:1]


def typical_episode(replay: pa.Table) -> str:
    """The episode whose sum of rewards, under the first policy, is the median: neither the best nor the worst."""
    values = per_episode(replay, policy_order(policies_of(replay))[0], "reward", "sum")
    return episodes_of(replay)[int(np.argsort(values, kind="stable")[len(values) // 2])]


def metric_cdf(replay: pa.Table, metric: Metric, path: Path | str) -> None:
    """Share of episodes up to each value, one step line per policy.

    The value of an episode is the mean over its decisions of the record column that has the metric's name, and of the
    reward where there is none (ABR: the mean reward per chunk is the quality of experience). Where that column holds lists
    (CJS: the completion times of the jobs that a decision saw complete), all their values count, of all episodes.
    """
    column = metric_column(replay, metric)
    lists = pa.types.is_list(replay.schema.field(column).type)
    what = "job" if lists else "episode"
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    names = policy_order(policies_of(replay))
    samples = {
        name: np.sort(values_of(replay, name, column) if lists else per_episode(replay, name, column)) for name in names
    }
    for name, values in samples.items():
        steps = np.arange(len(values) + 1) / len(values)
        axes.step(np.r_[values[:1], values], steps, where="post", **style_of(name, names))
    unit = f" [{metric.unit}]" if metric.unit else ""
    label = metric.label.removeprefix("mean ") if lists else metric.label
    axes.set_xlabel(f"{label} per {what}{unit}, {'right' if metric.higher_is_better else 'left'} is better")
    _limit(axes, samples)
    axes.set_ylabel(f"share of {what}s")
    axes.set_ylim(0, 1.01)
    figure.legend(loc="outside right upper", frameon=False)
    tidy(axes)
    save(figure, path)


def _limit(axes: Axes, samples: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Show all of our models and what lies near; a poor baseline's long tail is cut, and the plot says so."""
    everything = np.concatenate(list(samples.values()))
    focus = np.concatenate([samples[name] for name in FIRST if name in samples] or [everything])
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
