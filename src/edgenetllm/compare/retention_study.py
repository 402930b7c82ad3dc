"""What pruning costs: the main metric by method, sparsity and recovery, over training seeds and test episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgenetllm.compare.retention_runs import StudyRuns
from edgenetllm.compare.run_facts import cell_of, main_metric
from edgenetllm.compare.runs import PlayedRun
from edgenetllm.report.bootstrap import crossed_mean_ci, crossed_ratio_ci
from edgenetllm.report.document import Document, Strict
from edgenetllm.report.results import Estimate, Retention, metric_key
from edgenetllm.tasks.task import Metric


class Cell(Strict):
    """The sparse models of one method, recovery, variant and sparsity."""

    method: str | None  # None: the control, 100 % sparse, for which no method matters
    recovery: str | None
    sparsity: float
    seeds: list[int]  # training seeds
    metric: Estimate
    retention: Retention | None  # None: a ratio says nothing, see bootstrap.ratio_ci
    variant: str = ""  # what sets it apart from others with the same names: `pruning.windows=8`


class Reference(Strict):
    """The dense parents, a baseline, or a bound."""

    name: str
    seeds: list[int]  # training seeds of the runs that played it
    metric: Estimate


class ReadRun(Strict):
    """A run that the study stands on."""

    folder: str  # its name, not where it lies
    stage: str
    seed: int
    method: str | None
    recovery: str | None
    sparsity: float
    variant: str = ""


class Study(Document):
    """All figures of a retention study, from which its tables and its plot are drawn."""

    KIND: ClassVar[str] = "a retention study"
    LEFT_BY: ClassVar[str] = "python -m edgenetllm.compare.retention FOLDER... --out"

    task: str
    model: str
    data: str
    metric: Metric
    episodes: int
    cells: list[Cell]  # sorted by method, recovery, sparsity
    controls: list[Cell]  # 100 % sparse
    references: list[Reference]  # `dense` first
    runs: list[ReadRun]
    notes: list[str]


def make_study(found: StudyRuns, seed: int = 0, resamples: int = 10_000) -> Study:
    """Estimate every group of the runs. A run of a model that was not pruned gives references only."""
    runs = list(found.played.values())
    first = runs[-1].results
    metric = main_metric(first)
    cells: list[Cell] = []
    controls: list[Cell] = []
    for group in found.grouped.sparse:
        members = [found.played[run.folder] for run in group.runs]
        method, recovery, sparsity = cell_of(members[0].results)
        sparse, dense = (_by_seed(members, policy) for policy in ("sparse", "dense"))
        ratio = crossed_ratio_ci(sparse, dense, metric.higher_is_better, seed, resamples)
        cell = Cell(
            method=method,
            recovery=recovery,
            sparsity=sparsity,
            seeds=[run.results.seed for run in members],
            metric=Estimate.model_validate(crossed_mean_ci(sparse, seed, resamples)),
            retention=ratio and Retention(mean=ratio["mean"], ci95=(ratio["ci95"][0], ratio["ci95"][1])),
            variant=group.variant,
        )
        (controls if sparsity == 1 else cells).append(cell)
    return Study(
        task=first.task,
        model=first.model,
        data=first.data,
        metric=metric,
        episodes=len(runs[0].episodes),
        cells=sorted(cells, key=lambda cell: (cell.method or "", cell.recovery or "", cell.variant, cell.sparsity)),
        controls=sorted(controls, key=lambda cell: (cell.recovery or "", cell.variant)),
        references=_references(runs, metric, seed, resamples),
        runs=[_read(run, found.grouped.variant_of(run)) for run in runs],
        notes=found.notes,
    )


def _by_seed(runs: Sequence[PlayedRun], policy: str) -> npt.NDArray[np.float64]:
    """(seeds, episodes)"""
    return np.stack([run.values[policy] for run in runs])


def _references(runs: Sequence[PlayedRun], metric: Metric, seed: int, resamples: int) -> list[Reference]:
    """From the newest run of each training seed. A bound is not played: its figures are those of the newest results."""
    newest = {run.results.seed: run for run in runs}
    names = dict.fromkeys(name for run in runs for name in run.values if name not in ("dense", "sparse"))
    found = []
    for name in ("dense", *names):
        players = [newest[number] for number in sorted(newest) if name in newest[number].values]
        if players:
            figures = Estimate.model_validate(crossed_mean_ci(_by_seed(players, name), seed, resamples))
            found.append(Reference(name=name, seeds=[run.results.seed for run in players], metric=figures))
    last = runs[-1].results
    for name, estimates in last.policies.items():
        bound = estimates.get(metric_key(metric))
        if bound is not None and name not in ("dense", "sparse", *names):
            found.append(Reference(name=name, seeds=[last.seed], metric=bound))
    return found


def _read(run: PlayedRun, variant: str) -> ReadRun:
    method, recovery, sparsity = cell_of(run.results)
    return ReadRun(
        folder=run.name,
        stage=run.results.stage,
        seed=run.results.seed,
        method=method,
        recovery=recovery,
        sparsity=sparsity,
        variant=variant,
    )
