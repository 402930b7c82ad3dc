"""The one grouping of runs: a group is what differs in nothing but the training seed.

Results say what determines them (their identity), the seed left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from edgenetllm.compare.runs import FinishedRun, bundle_values, cell_of, describe_cell, is_pruned
from edgenetllm.report.run_labels import (
    MODEL_GROUPS,
    PRUNING_GROUPS,
    SPARSITY,
    canonical,
    differing,
    labels,
    without,
)

DENSE_TOLERANCE = 5e-3  # relative: dense parents of one adaptation, replayed with other threads or on another machine

Policy = Literal["sparse", "dense"]
Key = TypeVar("Key", str, int)


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs that differ in their training seed only; of each seed the one that started last."""

    policy: Policy  # the sparse models of the runs, or their dense parents
    model: str
    variant: str  # what sets it apart from others with the same columns in a table: `adapter.rank=8`
    key: str  # what the runs share
    line: str  # what they share with those of another sparsity
    runs: list[FinishedRun]  # by training seed

    @property
    def method(self) -> str | None:
        """None: dense, or at 100 % sparsity the control, for which no method matters."""
        return self._cell[0]

    @property
    def recovery(self) -> str | None:
        return self._cell[1]

    @property
    def sparsity(self) -> float:
        return self._cell[2]

    @property
    def values(self) -> str | None:
        """The type in which the bundle stores its non-zeros."""
        return bundle_values(self.runs[0].results) if self.policy == "sparse" else None

    @property
    def seeds(self) -> list[int]:
        return [run.results.seed for run in self.runs]

    @property
    def _cell(self) -> tuple[str | None, str | None, float]:
        return cell_of(self.runs[0].results) if self.policy == "sparse" else (None, None, 0.0)


@dataclass(frozen=True, eq=False)
class Grouped:
    """The runs of one task on the same test episodes, in groups."""

    runs: list[FinishedRun]  # all of them, oldest first
    sparse: list[RunGroup]
    dense: list[RunGroup]
    repeats: dict[Path, FinishedRun]  # a run that another one repeats in everything -> that one
    notes: list[str]

    def variant_of(self, run: FinishedRun) -> str:
        """The variant of the group that the run is in."""
        groups = [group for group in self.sparse if group.key == group_key(run)]
        groups += [group for group in self.dense if group.key == parent_key(run)]
        return groups[0].variant


def place_of(run: FinishedRun) -> tuple[str, str, str, str]:
    """Task, data, hash of the data, metric: only runs that share them are compared."""
    results = run.results
    return results.task, results.data, results.data_hash, results.key


def group_runs(runs: Sequence[FinishedRun]) -> Grouped:
    """The groups of `runs`, which share their `place_of` and come oldest first."""
    # Of runs that are the same in everything, the last one counts.
    last = {(group_key(run), run.results.seed): run for run in runs}
    repeats = {run.folder: newest for run in runs if (newest := last[group_key(run), run.results.seed]) is not run}
    counting = [run for run in runs if run.folder not in repeats]
    # What was pruned makes groups of sparse models, and every run shows its dense parent.
    sparse = by(group_key, [run for run in counting if is_pruned(run.results)])
    parents = by(parent_key, counting)
    dense = {key: list({run.results.seed: run for run in members}.values()) for key, members in parents.items()}
    variants = _variants(sparse, dense)

    def made(policy: Policy, groups: Mapping[str, list[FinishedRun]]) -> list[RunGroup]:
        return [
            RunGroup(
                policy=policy,
                model=members[0].results.model,
                variant=variants[policy, key],
                key=key,
                line=line_key(members[0]) if policy == "sparse" else key,
                runs=sorted(members, key=lambda run: run.results.seed),
            )
            for key, members in groups.items()
        ]

    notes = [
        *_notes_on_repeats(runs, repeats),
        *(n for members in parents.values() for n in _different_parents(members)),
    ]
    return Grouped(list(runs), made("sparse", sparse), made("dense", dense), repeats, notes + notes_of(runs))


def group_key(run: FinishedRun) -> str:
    """A text that the runs of a group share."""
    return canonical(run.identity)


def line_key(run: FinishedRun) -> str:
    """A text that groups share which a line joins: everything but the sparsity."""
    return canonical(without(run.identity, [SPARSITY]))


def parent_key(run: FinishedRun) -> str:
    """A text that runs with the same dense parents share: everything but what pruning and export do."""
    return canonical(without(run.identity, PRUNING_GROUPS))


def by(key: Callable[[FinishedRun], Key], runs: Iterable[FinishedRun]) -> dict[Key, list[FinishedRun]]:
    runs_by_key: dict[Key, list[FinishedRun]] = {}
    for run in runs:
        runs_by_key.setdefault(key(run), []).append(run)
    return runs_by_key


def _variants(
    sparse: Mapping[str, list[FinishedRun]], dense: Mapping[str, list[FinishedRun]]
) -> dict[tuple[Policy, str], str]:
    """(policy, key) -> what sets the group apart from the others.

    Keys that say how the dense model came about are named wherever they differ; those of model, pruning, recovery and export
    only among groups whose columns in a table say the same.
    """
    # A run stands for each group.
    known: dict[tuple[Policy, str], FinishedRun] = {("dense", key): members[0] for key, members in dense.items()}
    known |= {("sparse", key): members[0] for key, members in sparse.items()}
    outer = differing([run.identity for run in known.values()], (*MODEL_GROUPS, *PRUNING_GROUPS))
    # Groups whose columns in a table say the same: there the other keys that differ are named too.
    columns: dict[tuple[object, ...], list[tuple[Policy, str]]] = {}
    for (policy, key), run in known.items():
        shown: tuple[object, ...] = (policy, run.results.model)
        if policy == "sparse":
            method, recovery, sparsity = cell_of(run.results)
            shown += (method, recovery, bundle_values(run.results), sparsity == 1)
        shown += (canonical({name: value for name, value in run.identity.items() if name in outer}),)
        columns.setdefault(shown, []).append((policy, key))
    keys: dict[tuple[Policy, str], list[str]] = {}
    for places in columns.values():
        left_out = [SPARSITY] if places[0][0] == "sparse" else PRUNING_GROUPS
        inner = differing([known[place].identity for place in places], left_out)
        keys |= {place: [*outer, *(key for key in inner if key not in outer)] for place in places}
    texts = labels([run.identity for run in known.values()], [keys[place] for place in known])
    return dict(zip(known, texts, strict=True))


def notes_of(runs: Sequence[FinishedRun]) -> list[str]:
    """Notes of the results on their data, each sentence once, with names where not all runs say it."""
    runs_by_note: dict[str, list[str]] = {}
    for run in runs:
        for note in run.results.notes:
            runs_by_note.setdefault(note, []).append(run.name)
    more = {note: f" and {len(names) - 3} more" if len(names) > 3 else "" for note, names in runs_by_note.items()}
    return [
        note if len(names) == len(runs) else f"{', '.join(names[:3])}{more[note]}: {note}"
        for note, names in runs_by_note.items()
    ]


def _notes_on_repeats(runs: Sequence[FinishedRun], repeats: Mapping[Path, FinishedRun]) -> list[str]:
    notes = []
    for run in runs:
        if (last := repeats.get(run.folder)) is None:
            continue
        notes.append(
            f"seed {run.results.seed}, {describe_cell(run.results)}: {last.name} repeats {run.name} in everything; "
            f"{last.name}, which started last, counts"
        )
    return notes


def parents_apart(runs: Sequence[FinishedRun], tolerance: float) -> list[tuple[FinishedRun, FinishedRun]]:
    """The runs with the lowest and the highest figure of the dense parent, for each training seed where they differ."""
    by_seed = by(lambda run: run.results.seed, runs)
    ends = [(min(m, key=dense_mean), max(m, key=dense_mean)) for _, m in sorted(by_seed.items())]
    return [(a, b) for a, b in ends if not math.isclose(dense_mean(a), dense_mean(b), rel_tol=tolerance, abs_tol=1e-9)]


def dense_mean(run: FinishedRun) -> float:
    return run.results.policies["dense"][run.results.key].mean


def _different_parents(runs: Sequence[FinishedRun]) -> list[str]:
    """Notes on runs of one training seed whose dense parents differ, though their identities are the same."""
    return [
        f"{low.results.model}, seed {low.results.seed}: the dense parents reach from {dense_mean(low):.6g} ({low.name}) to "
        f"{dense_mean(high):.6g} ({high.name}), though their identities are the same: compare their retention rather than "
        "their means"
        for low, high in parents_apart(runs, DENSE_TOLERANCE)
    ]
