"""Cloud or edge: a table and a plot of runs that differ in where their decisions are made, one pair for each task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic
from edgenetllm.plotting import BASELINES, OURS, save, tidy
from edgenetllm.printable import say
from edgenetllm.report.results import RESULTS_FILE, PlacedRow, Results, results_folders
from edgenetllm.report.run_labels import canonical
from edgenetllm.report.text import bracketed, estimate_text, markdown_line, markdown_table, metric_name

COLORS = {"edge": OURS["sparse"], "cloud": OURS["dense"]}  # of the model that plays alone
MODELS = {"edge": "sparse", "cloud": "dense", "split": "dense", "adaptive": "sparse, dense where asked"}
HEADER = ("where", "round trip [ms]", "decision, median [ms]", "p99 [ms]", "bytes up", "bytes down", "cloud asked")


def draw_placements(runs: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Write `placement_<task>.md` and `.png` for the runs that have a placement: what it is -> path, empty without any.

    Runs that differ in anything but the placement have files of their own, with a number. Damaged results are left out, which
    is said.
    """
    results = []
    for place in (place for run in runs for place in results_folders(run)):
        try:
            results.append(Results.load(place / RESULTS_FILE))
        except UserError as error:
            say(f"warning: left out: {error}", file=sys.stderr)
    paths: dict[str, Path] = {}
    names: dict[str, int] = {}
    for study in _studies([one for one in results if one.placement is not None]).values():
        task = study[0].task
        names[task] = names.get(task, 0) + 1
        stem = f"placement_{task}" + ("" if names[task] == 1 else f"_{names[task]}")
        paths |= {f"{stem} table": folder / f"{stem}.md", f"{stem} plot": folder / f"{stem}.png"}
        write_atomic(folder / f"{stem}.md", placement_table(study).encode())
        plot_placements(study, folder / f"{stem}.png")
    return paths


def _studies(results: Sequence[Results]) -> dict[str, list[Results]]:
    """Results that differ in nothing but the placement, in the order in which they come."""
    studies: dict[str, list[Results]] = {}
    for one in results:
        rest = {
            key: value
            for key, value in (one.identity or {}).items()
            if not key.startswith("placement.") and key != "evaluation.link"
        }
        key = canonical({"task": one.task, "data": one.data_hash, "seed": one.seed, "model": one.model, "rest": rest})
        studies.setdefault(key, []).append(one)
    return studies


def placed(study: Sequence[Results]) -> dict[str, dict[str, tuple[PlacedRow, Results]]]:
    """Placement -> row -> its costs, and the results that it is in."""
    rows: dict[str, dict[str, tuple[PlacedRow, Results]]] = {}
    for results in study:
        if results.placement is not None:
            own = rows.setdefault(results.placement.name, {})
            own |= {name: (row, results) for name, row in results.placement.rows.items()}
    return rows


def placement_table(study: Sequence[Results]) -> str:
    """Markdown: what decisions cost in each row, and the task's figures with 95 % intervals."""
    first = study[0]
    header = [*HEADER, *map(metric_name, first.metrics.values())]
    rows = [[f"{name}, in no time", *["–"] * (len(HEADER) - 1), *_figures(first, name)] for name in ("dense", "sparse")]
    for name, own in placed(study).items():
        for policy, (row, results) in own.items():
            costs = [f"{row.rtt_ms:g}", f"{row.latency_ms.median:.4g}", f"{row.latency_ms.p99:.4g}"]
            costs += [f"{row.up_bytes:,.0f}", f"{row.down_bytes:,.0f}", f"{row.asked:.1%}"]
            if name == "edge":
                costs[0] = "–"
            rows.append([name, *costs, *_figures(results, policy)])
    facts = (f"- {markdown_line(line)}" for line in _facts(study))
    lines = [markdown_line(_title(study)), "", *markdown_table(header, rows), "", *facts]
    return "\n".join(lines) + "\n"


def _figures(results: Results, policy: str) -> list[str]:
    return [estimate_text(results.policies[policy].get(key)) for key in results.metrics]


def _title(study: Sequence[Results]) -> str:
    first = study[0]
    episodes = max(figure.n for figure in first.policies["sparse"].values())
    return f"{first.task} on {first.data}: {first.model} at sparsity {first.sparsity:.0%}, {episodes} test episodes"


def _facts(study: Sequence[Results]) -> list[str]:
    """Engine times and links, each once, and the notes of the results."""
    lines = []
    for results in study:
        placement = results.placement
        assert placement is not None
        times = [
            f"{ms:.3g} ms {where}"
            for ms, where in ((placement.edge_ms, "at the edge"), (placement.cloud_ms, "in the cloud"))
            if ms is not None
        ]
        link = ""
        if placement.traces is not None:
            link = f"; link: {placement.trace_count} traces of {placement.traces}, loss {placement.loss:.2%}"
        lines.append(f"{placement.name}: a decision takes an engine {' and '.join(times)}{link}")
    return [*lines, *dict.fromkeys(f"note: {note}" for results in study for note in results.notes)]


def plot_placements(study: Sequence[Results], path: Path) -> None:
    """The task's first metric against the round trip time, a line for each placement, with 95 % intervals over episodes.

    What has no link is level: the edge, and both models where a decision takes no time.
    """
    first = study[0]
    metric, key = first.metric, first.key
    rows = placed(study)
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    longest = max(1.0, *(row.rtt_ms for own in rows.values() for row, _ in own.values()))
    linked = [name for name in rows if name != "edge"]
    for number, name in enumerate(linked):
        # Points a little apart, so that intervals of lines that agree can be seen.
        points = sorted((row.rtt_ms, results.policies[policy][key]) for policy, (row, results) in rows[name].items())
        x = np.array([rtt_ms for rtt_ms, _ in points]) + 0.012 * longest * (number - (len(linked) - 1) / 2)
        mean, low, high = (np.array(values) for values in zip(*((e.mean, *e.ci95) for _, e in points), strict=True))
        color = COLORS.get(name) or BASELINES[number % len(BASELINES)]
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.8, "elinewidth": 0.8, "capsize": 2}
        axes.errorbar(x, mean, [mean - low, high - mean], color=color, label=f"{name} ({MODELS[name]})", **style)
    for policy, (_, results) in rows.get("edge", {}).items():
        level = results.policies[policy][key].mean
        axes.axhline(level, color=COLORS["edge"], linewidth=1.8, label=f"edge ({MODELS['edge']})", zorder=1)
    for name, dashes in (("dense", (0, (6, 2))), ("sparse", (0, (2, 2)))):
        level = first.policies[name][key].mean
        axes.axhline(level, color=OURS[name], linestyle=dashes, linewidth=1.0, label=f"{name}, in no time", zorder=1)
    better = "higher" if metric.higher_is_better else "lower"
    axes.set_xlabel("round trip between edge and cloud [ms]")
    axes.set_ylabel(f"{metric.label}{bracketed(metric.unit)}, {better} is better")
    axes.set_title(_title(study), fontsize=9, loc="left")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=3)
    tidy(axes)
    save(figure, path)
