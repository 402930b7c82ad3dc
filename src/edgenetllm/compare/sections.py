"""Sections of runs on the same test episodes, and the figures of their groups: mean, interval, latency and sizes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats
from tqdm import tqdm

from edgenetllm.compare.groups import Grouped, RunGroup, group_runs, parent_key, place_of
from edgenetllm.compare.runs import MEAN_TOLERANCE, FinishedRun, PlayedRun, bundle_number, play
from edgenetllm.errors import UserError
from edgenetllm.report.bootstrap import Estimate, Retention, mean_ci, ratio_ci
from edgenetllm.tasks.task import Metric

Played = Mapping[Path, PlayedRun | UserError]

THREADS = 4  # for reading episodes, most of which happens outside Python's lock
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
    basis: Literal["episodes", "seeds × episodes", "seeds only"]  # what both intervals draw again
    note: str | None = None  # why the intervals are not over episodes as well


@dataclass(frozen=True, eq=False)
class Group(RunGroup):
    """A group of runs with its figures."""

    figures: Figures
    latency: dict[str, EngineLatency]  # engine -> latency
    sizes: dict[str, float]  # name in SIZES -> bytes, the mean over the runs

    @property
    def metric(self) -> Estimate:
        return self.figures.metric

    @property
    def retention(self) -> Retention | None:
        return self.figures.retention


@dataclass(frozen=True, eq=False)
class Section:
    """All runs of a task on the same test episodes."""

    task: str
    data: str
    data_hash: str
    metric: Metric
    groups: list[Group]  # of sparse models, by model, method, recovery, variant and sparsity; controls last
    dense: list[Group]  # the dense parents, one group per adaptation
    baselines: dict[str, Estimate]  # with bounds; each as the newest run that has it reports it
    grouped: Grouped
    notes: list[str]

    @property
    def runs(self) -> list[FinishedRun]:
        """Oldest first."""
        return self.grouped.runs

    @property
    def id(self) -> str:
        """The same whenever a page is made again, so that links into it stay good."""
        return "c" + _digest(self.task, self.data, self.data_hash, self.metric.name)

    def row_id(self, group: Group) -> str:
        """The id of a group's row in the table of a page."""
        return f"{self.id}-{_digest(group.policy, group.key)}"


def make_sections(runs: Sequence[FinishedRun], resamples: int = 10_000) -> list[Section]:
    """One per task, data set and test episodes, those with most runs first. `runs` are sorted by age."""
    places: dict[object, list[FinishedRun]] = {}
    for run in runs:
        places.setdefault(place_of(run), []).append(run)
    drafts = [group_runs(members) for members in places.values()]
    played = _play(group for draft in drafts for group in (*draft.sparse, *draft.dense))
    sections = [make_section(draft, played, resamples) for draft in drafts]
    return sorted(sections, key=lambda section: (-len(section.runs), section.task, section.data, section.data_hash))


def make_section(draft: Grouped, played: Played, resamples: int = 10_000) -> Section:
    """The figures of groups on the same test episodes. `played`: at least the runs of groups with several."""
    last = draft.runs[-1].results
    counting = [run for run in draft.runs if run.folder not in draft.repeats]
    sparse = [_measured(group, group.runs, played, resamples) for group in draft.sparse]
    dense = []
    for parents in draft.dense:
        timed = [run for run in counting if parent_key(run) == parents.key]  # all measured it
        dense.append(_measured(parents, timed, played, resamples))
    reasons = dict.fromkeys(g.figures.note for g in (*sparse, *dense) if g.figures.note is not None)
    baselines, differing = _baselines(draft.runs)
    return Section(
        task=last.task,
        data=last.data,
        data_hash=last.data_hash,
        metric=last.metric,
        groups=sorted(sparse, key=_order),
        dense=sorted(dense, key=lambda group: (group.model, group.variant)),
        baselines=baselines,
        grouped=draft,
        notes=draft.notes + differing + [f"intervals over seeds only: {reason}" for reason in reasons],
    )


def _play(groups: Iterable[RunGroup]) -> Played:
    """The episodes of the runs in groups of several: those of a single run say nothing that its results do not."""
    runs = list({run.folder: run for group in groups if len(group.runs) > 1 for run in group.runs}.values())
    with ThreadPoolExecutor(THREADS) as pool:
        played = pool.map(_try_play, runs)
        bar = tqdm(played, "episodes", len(runs), leave=False, disable=None, delay=1)
        return {run.folder: episodes for run, episodes in zip(runs, bar, strict=True)}


def _try_play(run: FinishedRun) -> PlayedRun | UserError:
    try:
        return play(run)
    except UserError as error:
        return error


def _order(group: Group) -> tuple[str, bool, str, str, str, str, float]:
    control = group.sparsity == 1
    names = (group.method or "", group.recovery or "", group.variant, group.values or "")
    return group.model, control, *names, group.sparsity


def _measured(group: RunGroup, timed: Sequence[FinishedRun], played: Played, resamples: int) -> Group:
    """`timed`: the runs that the latency comes from."""
    sizes = {name: [s for run in group.runs if (s := bundle_number(run.results, key))] for name, key in SIZES.items()}
    return Group(
        **vars(group),
        figures=_figures(group, played, resamples),
        latency=_latencies(group, timed),
        sizes={name: float(np.mean(known)) for name, known in sizes.items() if known},
    )


def _figures(group: RunGroup, played: Played, resamples: int) -> Figures:
    """The figures of a group: as its only run reports them; of several, from their episodes, or else from their means."""
    first = group.runs[0].results
    if len(group.runs) == 1:
        retention = first.retention.get(first.key) if group.policy == "sparse" else None
        return Figures(first.policies[group.policy][first.key], retention, "episodes")
    members = [played[run.folder] for run in group.runs]
    failed = [str(error) for error in members if isinstance(error, UserError)]
    whole = [run for run in members if isinstance(run, PlayedRun)]
    if failed:
        return _over_seeds(group, "; ".join(failed))
    if any(run.episodes != whole[0].episodes for run in whole):
        return _over_seeds(group, "the runs name their episodes differently")
    values, dense = (np.stack([run.values[policy] for run in whole]) for policy in (group.policy, "dense"))
    ratio = ratio_ci(values, dense, first.metric.higher_is_better, resamples=resamples)
    retention = ratio if group.policy == "sparse" else None
    return Figures(mean_ci(values, resamples=resamples), retention, "seeds × episodes")


def _over_seeds(group: RunGroup, why: str) -> Figures:
    results = [run.results for run in group.runs]
    key = results[0].key
    reported = [one.policies[group.policy][key] for one in results]
    mean, ends = student([one.mean for one in reported])
    metric = Estimate(mean=mean, ci95=ends, n=min(one.n for one in reported))
    ratios = [ratio.mean for one in results if (ratio := one.retention.get(key)) is not None]
    retention = None
    if group.policy == "sparse" and len(ratios) == len(results):
        mean, ends = student(ratios)
        retention = Retention(mean=mean, ci95=ends)
    return Figures(metric, retention, "seeds only", why)


def student(means: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of one value per seed (two or more) and its 95 % interval by Student's t: wide for few seeds, as it should be."""
    mean = float(np.mean(means))
    reach = float(stats.t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / math.sqrt(len(means)))
    return mean, (mean - reach, mean + reach)


def _latencies(group: RunGroup, timed: Sequence[FinishedRun]) -> dict[str, EngineLatency]:
    """Engine -> latency. Results name one `torch dense`, `torch sparse`: the engine, then the policy."""
    measured: dict[str, list[tuple[float, float | None]]] = {}
    for run in timed:
        for name, latency in run.results.decision_ms.items():
            engine, _, whose = name.rpartition(" ")
            if engine and whose == group.policy:
                dense = run.results.decision_ms.get(f"{engine} dense")
                ratio = latency.median / dense.median if dense is not None and dense.median > 0 else None
                measured.setdefault(engine, []).append((latency.median, ratio))
    summary = {}
    for engine, pairs in measured.items():
        times = [ms for ms, _ in pairs]
        ratios = [ratio for _, ratio in pairs if ratio]
        to_dense = float(np.exp(np.mean(np.log(ratios)))) if ratios and group.policy == "sparse" else None
        summary[engine] = EngineLatency(float(np.mean(times)), (min(times), max(times)), len(times), to_dense)
    return summary


def _baselines(runs: Sequence[FinishedRun]) -> tuple[dict[str, Estimate], list[str]]:
    """The figures of the newest run that has a policy, and notes on those that other runs report otherwise."""
    figures_by_name: dict[str, list[tuple[Estimate, str]]] = {}
    for run in reversed(runs):
        placement = run.results.placement  # its rows are the run's own models again
        own = ["dense", "sparse", *([] if placement is None else placement.rows)]
        for name, figures in run.results.policies.items():
            if name not in own and run.results.key in figures:
                figures_by_name.setdefault(name, []).append((figures[run.results.key], run.name))
    notes = []
    for name, reports in figures_by_name.items():
        low, high = (choose(reports, key=lambda report: report[0].mean) for choose in (min, max))
        if not math.isclose(low[0].mean, high[0].mean, rel_tol=MEAN_TOLERANCE, abs_tol=1e-9):
            notes.append(
                f"{name} reaches from {low[0].mean:.6g} ({low[1]}) to {high[0].mean:.6g} ({high[1]}): the row is that of "
                f"{reports[0][1]}, which started last"
            )
    return {name: reports[0][0] for name, reports in figures_by_name.items()}, notes


def _digest(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:10]
