"""Figures of the groups of a comparison page: mean, interval, latency and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats

from edgenetllm.compare.run_facts import bundle_number, bundle_values, cell_of, main_metric
from edgenetllm.compare.run_groups import Policy, RunGroup
from edgenetllm.compare.runs import FinishedRun, PlayedRun
from edgenetllm.errors import UserError
from edgenetllm.report.bootstrap import crossed_mean_ci, crossed_ratio_ci
from edgenetllm.report.results import Estimate, Results, Retention, metric_key

Basis = Literal["episodes", "seeds × episodes", "seeds only"]  # what an interval draws again
Runs = Mapping[Path, Results]
Played = Mapping[Path, PlayedRun | UserError]

# Of a model: key in `results.bundle` of its size in bytes.
SIZES = {"bundle": "bytes", "fp32": "dense_fp32_bytes", "fp16": "dense_fp16_bytes", "int8": "dense_int8_bytes"}


@dataclass(frozen=True)
class EngineLatency:
    """Median milliseconds of one decision of an engine."""

    ms: float  # mean over the runs
    ends: tuple[float, float]  # lowest and highest of them
    runs: int
    to_dense: float | None  # geometric mean of the ratios to the dense model, each of one run on one machine


@dataclass(frozen=True, eq=False)
class Figures:
    """The main metric of a group."""

    metric: Estimate
    retention: Retention | None  # None: of dense models, or where a ratio says nothing, see bootstrap.ratio_ci
    basis: Basis  # of both intervals
    note: str | None  # why the intervals are not over episodes as well


@dataclass(frozen=True, eq=False)
class Group:
    """A group of runs and its figures."""

    policy: Policy  # the sparse models of the runs, or their dense parents
    model: str
    variant: str  # what sets it apart from others with the same columns, see RunGroup
    key: str
    line: str
    method: str | None  # None: dense, or at 100 % sparsity the control, for which no method matters
    recovery: str | None
    sparsity: float
    values: str | None  # how the bundle stores its non-zeros: fp32, fp16, bf16, int8
    runs: Runs
    figures: Figures
    latency: dict[str, EngineLatency]  # engine -> latency
    sizes: dict[str, float]  # name in SIZES -> bytes, the mean over the runs

    @property
    def seeds(self) -> list[int]:
        return sorted(results.seed for results in self.runs.values())


def make_group(
    group: RunGroup, played: Played, resamples: int = 10_000, timed: Sequence[FinishedRun] | None = None
) -> Group:
    """`played`: the runs of groups with several. `timed`: where the latency comes from, if not from these runs."""
    runs = {run.folder: run.results for run in group.runs}
    first = group.runs[0].results
    sparse = group.policy == "sparse"
    method, recovery, sparsity = cell_of(first) if sparse else (None, None, 0.0)
    found = {name: [s for r in runs.values() if (s := bundle_number(r, key))] for name, key in SIZES.items()}
    return Group(
        policy=group.policy,
        model=group.model,
        variant=group.variant,
        key=group.key,
        line=group.line,
        method=method,
        recovery=recovery,
        sparsity=sparsity,
        values=bundle_values(first) if sparse else None,
        runs=runs,
        figures=_figures(runs, group.policy, played, resamples),
        latency=latencies([run.results for run in timed or group.runs], group.policy),
        sizes={name: float(np.mean(sizes)) for name, sizes in found.items() if sizes},
    )


def _figures(runs: Runs, policy: Policy, played: Played, resamples: int) -> Figures:
    """Of one run what it reports, which is the same; of several, from the episodes, or without these from their means."""
    results = list(runs.values())
    key = metric_key(main_metric(results[-1]))
    if len(results) == 1:
        retention = results[0].retention.get(key) if policy == "sparse" else None
        return Figures(results[0].policies[policy][key], retention, "episodes", None)
    members = [played[folder] for folder in runs]
    failed = [str(error) for error in members if isinstance(error, UserError)]
    whole = [run for run in members if isinstance(run, PlayedRun)]
    if failed:
        return _over_seeds(results, policy, key, "; ".join(failed))
    if any(run.episodes != whole[0].episodes for run in whole):
        return _over_seeds(results, policy, key, "the runs name their episodes differently")
    return _crossed(whole, policy, resamples)


def _crossed(runs: Sequence[PlayedRun], policy: Policy, resamples: int) -> Figures:
    values = np.stack([run.values[policy] for run in runs])  # (seeds, episodes)
    metric = Estimate.model_validate(crossed_mean_ci(values, resamples=resamples))
    retention = None
    if policy == "sparse":
        dense = np.stack([run.values["dense"] for run in runs])
        higher = main_metric(runs[-1].results).higher_is_better
        ratio = crossed_ratio_ci(values, dense, higher, resamples=resamples)
        retention = ratio and Retention(mean=ratio["mean"], ci95=(ratio["ci95"][0], ratio["ci95"][1]))
    return Figures(metric, retention, "seeds × episodes", None)


def _over_seeds(results: Sequence[Results], policy: Policy, key: str, why: str) -> Figures:
    reported = [one.policies[policy][key] for one in results]
    mean, ends = student([one.mean for one in reported])
    metric = Estimate(mean=mean, ci95=ends, n=min(one.n for one in reported))
    shares = [share.mean for one in results if (share := one.retention.get(key)) is not None]
    retention = None
    if policy == "sparse" and len(shares) == len(results):
        mean, ends = student(shares)
        retention = Retention(mean=mean, ci95=ends)
    return Figures(metric, retention, "seeds only", why)


def student(means: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of one value per seed (two or more) and its 95 % interval by Student's t: wide for few seeds, as it should be."""
    mean = float(np.mean(means))
    reach = float(stats.t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / math.sqrt(len(means)))
    return mean, (mean - reach, mean + reach)


def latencies(results: Sequence[Results], policy: Policy) -> dict[str, EngineLatency]:
    """Engine -> latency. Results name one `torch dense`, `torch sparse`: the engine, then the policy."""
    found: dict[str, list[tuple[float, float | None]]] = {}
    for one in results:
        for name, latency in one.decision_ms.items():
            engine, _, whose = name.rpartition(" ")
            if engine and whose == policy:
                dense = one.decision_ms.get(f"{engine} dense")
                ratio = latency.median / dense.median if dense is not None and dense.median > 0 else None
                found.setdefault(engine, []).append((latency.median, ratio))
    summary = {}
    for engine, pairs in found.items():
        times = [ms for ms, _ in pairs]
        ratios = [ratio for _, ratio in pairs if ratio]
        to_dense = float(np.exp(np.mean(np.log(ratios)))) if ratios and policy == "sparse" else None
        summary[engine] = EngineLatency(float(np.mean(times)), (min(times), max(times)), len(times), to_dense)
    return summary
