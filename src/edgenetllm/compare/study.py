"""The cost of pruning: the main metric by method, sparsity and recovery, over training seeds and test episodes.

A study is a section of the train and prune runs below some folders, which must belong together, stored without the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from edgenetllm.compare.groups import DENSE_TOLERANCE, Grouped, by, dense_mean, group_runs, parents_apart, place_of
from edgenetllm.compare.runs import (
    MEAN_TOLERANCE,
    FinishedRun,
    LeftOut,
    cell_of,
    find_runs,
    folder_name,
    named,
    play,
)
from edgenetllm.compare.sections import Group, make_section
from edgenetllm.errors import UserError
from edgenetllm.report.bootstrap import Estimate, Retention
from edgenetllm.report.document import Document, Strict
from edgenetllm.report.run_labels import PRUNING_GROUPS, describe_differences, differing
from edgenetllm.tasks.task import Metric

STAGES = ("train", "prune")
NAMED = 10  # runs that a note or an error lists


class Cell(Strict):
    """The sparse models of one method, recovery, variant and sparsity."""

    method: str | None  # None: the control, 100 % sparse, for which no method matters
    recovery: str | None
    sparsity: float
    seeds: list[int]  # training seeds
    metric: Estimate
    retention: Retention | None  # None: a ratio says nothing, see bootstrap.ratio_ci
    variant: str = ""  # what sets it apart from others with the same names: `pruning.windows=8`

    @property
    def line(self) -> str:
        return named(self.method, self.recovery, self.variant)

    @property
    def model(self) -> str:
        """The same for all: a study has one."""
        return ""

    @property
    def values(self) -> str | None:
        return None


class Reference(Strict):
    """The dense parents, a baseline, or a bound."""

    name: str
    seeds: list[int]  # training seeds of the dense parents
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
    references: Annotated[list[Reference], Field(min_length=1)]  # `dense` first
    runs: list[ReadRun]
    notes: list[str]


def make_study(folders: Sequence[Path], resamples: int = 10_000) -> Study:
    """The study of the train and prune runs below the folders, at any depth, with notes on what was left out.

    A run of a model that was not pruned gives references only. Raises UserError when there are no runs, when they are of
    several tasks, models, data sets, sizes, adaptations or episodes, when the two files of a run do not belong together, and
    when the runs of a training seed have different dense parents.
    """
    # The runs, of one study and one adaptation.
    every, left_out = find_runs(folders)
    runs = [run for run in every if run.results.stage in STAGES]
    if not runs:
        raise UserError(f"{', '.join(map(str, folders))}: no finished train or prune run below")
    _check_same_study(runs)
    grouped = group_runs(runs)
    _check_same_adaptation(grouped)
    counting = [run for run in runs if run.folder not in grouped.repeats]
    # Their episodes, which must be the same.
    played = {run.folder: play(run) for run in counting}
    first = played[counting[0].folder]
    for run in played.values():
        if run.episodes != first.episodes:
            raise UserError(f"{first.folder} and {run.folder} were tested on different episodes")
    notes = [*_parent_notes(counting), *_notes_on_left_out(every, left_out)]
    # The figures.
    section = make_section(grouped, played, resamples)
    (dense,) = section.dense
    return Study(
        task=section.task,
        model=dense.model,
        data=section.data,
        metric=section.metric,
        episodes=len(first.episodes),
        cells=[_cell(group) for group in section.groups if group.sparsity < 1],
        controls=[_cell(group) for group in section.groups if group.sparsity == 1],
        references=[
            Reference(name="dense", seeds=dense.seeds, metric=dense.metric),
            *(Reference(name=name, seeds=[], metric=figures) for name, figures in section.baselines.items()),
        ],
        runs=[_read(run, grouped.variant_of(run)) for run in counting],
        notes=section.notes + notes,
    )


def _cell(group: Group) -> Cell:
    return Cell.model_validate({name: getattr(group, name) for name in Cell.model_fields})


def _read(run: FinishedRun, variant: str) -> ReadRun:
    method, recovery, sparsity = cell_of(run.results)
    facts = {"stage": run.results.stage, "seed": run.results.seed, "method": method, "recovery": recovery}
    return ReadRun.model_validate({"folder": run.name, **facts, "sparsity": sparsity, "variant": variant})


def _check_same_study(runs: Sequence[FinishedRun]) -> None:
    """Raises UserError where the runs cannot stand in one table."""
    kinds = by(lambda run: "{}, {model}, {}, data {}, {}".format(*place_of(run), model=run.results.model), runs)
    if len(kinds) > 1:
        listed = [f"  {kind}: {_listed(where)}" for kind, where in kinds.items()]
        raise UserError(
            "a study is about one task, model and data set, and one metric on the same test episodes, but these are several:",
            *listed,
        )


def _check_same_adaptation(grouped: Grouped) -> None:
    """Raises UserError where the runs of one training seed have several dense parents, with the keys that differ."""
    if len(grouped.dense) == 1:
        return
    identities = [group.runs[0].identity for group in grouped.dense]
    why = describe_differences(identities, differing(identities, PRUNING_GROUPS))
    listed = [f"  {group.variant}: {_listed(group.runs)}" for group in grouped.dense]
    raise UserError(
        f"a study needs one adaptation per training seed, but these are runs that differ in {why}:",
        *listed,
        "name the folders of one of them, or compare them with python -m edgenetllm.compare",
    )


def _parent_notes(runs: Sequence[FinishedRun]) -> list[str]:
    """The runs of a training seed share an adaptation, hence the dense parent; small deviations are only noted."""
    text = "seed {}: the dense parent of {} reaches {:.6g}, that of {} {:.6g}"
    for low, high in parents_apart(runs, DENSE_TOLERANCE):
        said = text.format(low.results.seed, low.folder, dense_mean(low), high.folder, dense_mean(high))
        raise UserError(
            f"{said}: they come from different adaptations; name the folders of one adaptation per training seed"
        )
    near = parents_apart(runs, MEAN_TOLERANCE)
    return [text.format(a.results.seed, a.name, dense_mean(a), b.name, dense_mean(b)) for a, b in near]


def _notes_on_left_out(every: Sequence[FinishedRun], left_out: Sequence[LeftOut]) -> list[str]:
    """Notes on runs below the folders that the study does not stand on; dry runs are none."""
    others = [f"{run.name} ({run.results.stage}.py)" for run in every if run.results.stage not in STAGES]
    broken = [f"{folder_name(run.folder)} ({run.reason})" for run in left_out if run.began]
    notes = []
    for names, what in ((others, "neither of train.py nor of prune.py"), (broken, "without usable results")):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            notes.append(f"left out, as {what}: {', '.join(names[:NAMED])}{more}")
    return notes


def _listed(runs: Iterable[FinishedRun]) -> str:
    return ", ".join(str(run.folder) for run in runs)
