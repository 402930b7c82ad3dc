"""Sections of a comparison page: only runs on the same test episodes stand side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from edgenetllm.compare.page_groups import Group, make_group
from edgenetllm.compare.run_facts import main_metric
from edgenetllm.compare.run_groups import Grouped, RunGroup, group_runs, parent_key, place_of
from edgenetllm.compare.runs import FinishedRun, PlayedRun, play
from edgenetllm.errors import UserError
from edgenetllm.report.results import Estimate, metric_key
from edgenetllm.tasks.task import Metric

THREADS = 4  # for reading episodes, most of which happens outside Python's lock
SAME = 1e-6  # relative: a baseline that played the same in every run


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


def make_sections(runs: Sequence[FinishedRun], resamples: int = 10_000) -> list[Section]:
    """One per task, data set and test episodes, those with most runs first. `runs` are sorted by age."""
    places: dict[object, list[FinishedRun]] = {}
    for run in runs:
        places.setdefault(place_of(run), []).append(run)
    drafts = [group_runs(members) for members in places.values()]
    played = _play(group for draft in drafts for group in (*draft.sparse, *draft.dense))
    sections = [_section(draft, played, resamples) for draft in drafts]
    return sorted(sections, key=lambda section: (-len(section.runs), section.task, section.data, section.data_hash))


def _play(groups: Iterable[RunGroup]) -> dict[Path, PlayedRun | UserError]:
    """The episodes of the runs in groups of several: those of a single run say nothing that its results do not."""
    wanted = list({run.folder: run for group in groups if len(group.runs) > 1 for run in group.runs}.values())
    with ThreadPoolExecutor(THREADS) as pool:
        played = pool.map(_try_play, wanted)
        bar = tqdm(played, "episodes", len(wanted), leave=False, disable=None, delay=1)
        return {run.folder: found for run, found in zip(wanted, bar, strict=True)}


def _try_play(run: FinishedRun) -> PlayedRun | UserError:
    try:
        return play(run)
    except UserError as error:
        return error


def _section(draft: Grouped, played: dict[Path, PlayedRun | UserError], resamples: int) -> Section:
    last = draft.runs[-1].results
    counting = [run for run in draft.runs if run.folder not in draft.repeats]
    sparse = [make_group(group, played, resamples) for group in draft.sparse]
    dense = []
    for parents in draft.dense:
        timed = [run for run in counting if parent_key(run, draft.models[run.folder]) == parents.key]  # all measured it
        dense.append(make_group(parents, played, resamples, timed))
    reasons = dict.fromkeys(g.figures.note for g in (*sparse, *dense) if g.figures.note is not None)
    baselines, differing = _baselines(draft.runs)
    return Section(
        task=last.task,
        data=last.data,
        data_hash=last.data_hash,
        metric=main_metric(last),
        groups=sorted(sparse, key=_order),
        dense=sorted(dense, key=lambda group: (group.model, group.variant)),
        baselines=baselines,
        grouped=draft,
        notes=draft.notes + differing + [f"intervals over seeds only: {reason}" for reason in reasons],
    )


def _order(group: Group) -> tuple[str, bool, str, str, str, str, float]:
    control = group.sparsity == 1
    names = (group.method or "", group.recovery or "", group.variant, group.values or "")
    return group.model, control, *names, group.sparsity


def _baselines(runs: Sequence[FinishedRun]) -> tuple[dict[str, Estimate], list[str]]:
    """The figures of the newest run that has a policy, and notes on those that other runs report otherwise."""
    key = metric_key(main_metric(runs[-1].results))
    found: dict[str, list[tuple[float, FinishedRun]]] = {}
    newest: dict[str, Estimate] = {}
    for run in reversed(runs):
        for name, figures in run.results.policies.items():
            if name not in ("dense", "sparse") and key in figures:
                newest.setdefault(name, figures[key])
                found.setdefault(name, []).append((figures[key].mean, run))
    notes = []
    for name, reports in found.items():
        low, high = min(reports, key=lambda report: report[0]), max(reports, key=lambda report: report[0])
        if not math.isclose(low[0], high[0], rel_tol=SAME, abs_tol=1e-9):
            notes.append(
                f"{name} reaches from {low[0]:.6g} ({low[1].name}) to {high[0]:.6g} ({high[1].name}): the row is that of "
                f"{reports[0][1].name}, which started last"
            )
    return newest, notes
