"""The names under which runs are compared in an experiment logger, and the table of its test episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from edgenetllm.report.results import PerEpisode, Results

RETENTION = "test/retention"  # of the task's first metric
OF_BOUND = "test/of_bound"  # the fraction that the sparse model reaches of what no policy can exceed
BUNDLE_MB = "bundle/mb"  # 10^6 bytes
CURVE = "experience/"  # iteration, steps, seconds and validation of the expert search
DECISION_MS = "edge/decision_ms"  # median, of the sparse model in the engine that played it
TORCH_DECISION_MS = "edge/torch_decision_ms"  # the same in torch
DENSE_DECISION_MS = "edge/dense_decision_ms"  # of the dense model, with int8 weights unless the engine is torch
REPLAY_S = "time/replay_s"
PLACED = "placement/"  # <row>/latency_ms (median), latency_p99_ms, up_bytes and down_bytes of a decision, asked
# Figures whose name is the same for every task.
TASK_FIGURES = (RETENTION, OF_BOUND, DECISION_MS, TORCH_DECISION_MS, DENSE_DECISION_MS, REPLAY_S)


def summarise(results: Results) -> dict[str, float]:
    """`test/qoe` is the sparse model's, `test/dense/qoe` its parent's, `test/bba/qoe` a baseline's, and so on."""
    summary = {key: estimate.mean for key, estimate in results.policies["sparse"].items()}
    for policy, figures in results.policies.items():
        summary |= {f"{key.replace('/', f'/{policy}/', 1)}": estimate.mean for key, estimate in figures.items()}
    retention = results.retention.get(next(iter(results.metrics)))
    if retention is not None:
        summary[RETENTION] = retention.mean
    reached = None if results.bound is None else results.bound.share["sparse"]
    if reached is not None:
        summary[OF_BOUND] = reached.mean
    if results.bundle is not None:
        summary[BUNDLE_MB] = float(str(results.bundle["bytes"])) / 1e6
    for name, key in (
        (DECISION_MS, f"{results.engine} sparse"),
        (TORCH_DECISION_MS, "torch sparse"),
        (DENSE_DECISION_MS, f"{results.engine} dense"),
    ):
        if key in results.decision_ms:
            summary[name] = results.decision_ms[key].median
    summary |= _placed(results)
    return summary | {f"time/{name}_s": seconds for name, seconds in results.timings_s.items()}


def _placed(results: Results) -> dict[str, float]:
    """The costs of a decision in each row of a placement."""
    figures: dict[str, float] = {}
    for name, row in ({} if results.placement is None else results.placement.rows).items():
        figures[f"{PLACED}{name}/latency_ms"] = row.latency_ms.median
        figures[f"{PLACED}{name}/latency_p99_ms"] = row.latency_ms.p99
        for field in ("up_bytes", "down_bytes", "asked"):
            figures[f"{PLACED}{name}/{field}"] = getattr(row, field)
    return figures


def summaries(reports: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """The summary of each task.

    In a run of several, a figure that every task has under one name carries the task's (`test/abr/retention`),
    unless it is of the whole run: the size of the bundle, times of what was done for all.
    """
    figures_by_task = {task: summarise(results) for task, results in reports.items()}
    count = Counter(key for figures in figures_by_task.values() for key in figures)

    def name(task: str, key: str) -> str:
        whole = key == BUNDLE_MB or (key.startswith("time/") and key != REPLAY_S)
        shared = count[key] > 1 or (len(figures_by_task) > 1 and key in TASK_FIGURES)  # which one of them may lack
        return key.replace("/", f"/{task}/", 1) if shared and not whole else key

    return {
        task: {name(task, key): value for key, value in figures.items()} for task, figures in figures_by_task.items()
    }


def episode_table(
    results: Results, per_episode: Mapping[str, PerEpisode], episodes: Sequence[str]
) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: a row per policy and test episode (a trace, or a set of jobs)."""
    names = [metric.name for metric in results.metrics.values()]
    rows: list[list[object]] = [
        [policy, episode, *(float(figures[name][number]) for name in names)]
        for policy, figures in per_episode.items()
        for number, episode in enumerate(episodes)
    ]
    return ["policy", "episode", *names], rows
