"""The runs of a retention study: of those below some folders the train and prune runs, which must belong together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenetllm.compare.run_facts import backbone_weights, folder_name
from edgenetllm.compare.run_groups import NEAR, OLDER, Grouped, group_runs, place_of
from edgenetllm.compare.runs import SAME, FinishedRun, LeftOut, PlayedRun, find_runs, play
from edgenetllm.errors import UserError
from edgenetllm.report.run_labels import OF_PRUNING, describe_differences, differing

STAGES = ("train", "prune")
NAMED = 10  # runs that a note or an error lists


@dataclass(frozen=True, eq=False)
class StudyRuns:
    """The runs that a study stands on: those that count, by folder, and their groups."""

    grouped: Grouped
    played: Mapping[Path, PlayedRun]  # oldest first, without runs that another one repeats
    notes: list[str]


def read_runs(folders: Sequence[Path]) -> StudyRuns:
    """The train and prune runs below the folders, at any depth, in groups, with notes on what was left out.

    Raises UserError when there are none, when they are of several tasks, models, data sets, sizes, adaptations or episodes,
    when the two files of a run do not belong together, and when the runs of a training seed have different dense parents.
    """
    every, left_out = find_runs(folders)
    runs = [run for run in every if run.results.stage in STAGES]
    if not runs:
        raise UserError(f"{', '.join(map(str, folders))}: no finished train or prune run below")
    _check_same_study(runs)
    grouped = group_runs(runs)
    _check_same_adaptation(grouped)
    played = {run.folder: play(run) for run in runs if run.folder not in grouped.repeats}
    first = next(iter(played.values()))
    for run in played.values():
        if run.episodes != first.episodes:
            raise UserError(f"{first.folder} and {run.folder} were tested on different episodes")
    notes = [*grouped.notes, *_check_parents(list(played.values())), *_left_out(every, left_out)]
    return StudyRuns(grouped, played, notes)


def _check_same_study(runs: Sequence[FinishedRun]) -> None:
    """Raises UserError where the runs cannot stand in one table."""
    kinds: dict[str, list[FinishedRun]] = {}
    places: dict[tuple[str, str, str, str], list[FinishedRun]] = {}
    sizes: dict[int, list[FinishedRun]] = {}
    for run in runs:
        results = run.results
        kinds.setdefault(f"{results.task} {results.model} {results.data}", []).append(run)
        places.setdefault(place_of(run), []).append(run)
        weights = backbone_weights(results)
        if weights is not None:
            sizes.setdefault(weights, []).append(run)
    if len(kinds) > 1:
        listed = "\n".join(f"  {kind}: {_listed(where)}" for kind, where in kinds.items())
        raise UserError(f"a study is about one task, model and data set, but these are several:\n{listed}")
    if len(places) > 1:
        listed = "\n".join(f"  {place[3]} on data {place[2]}: {_listed(where)}" for place, where in places.items())
        raise UserError(f"a study is about one metric on the same test data, but these are several:\n{listed}")
    if len(sizes) > 1:
        listed = "\n".join(
            f"  {weights:,} weights in the decoder blocks: {_listed(where)}" for weights, where in sizes.items()
        )
        raise UserError(f"a study is about one model, but these have different backbones:\n{listed}")


def _check_same_adaptation(grouped: Grouped) -> None:
    """Raises UserError where the runs of one training seed have several dense parents, with the keys that differ."""
    if len(grouped.dense) == 1:
        return
    known = [group.runs[0].results.identity for group in grouped.dense]
    identities = [identity for identity in known if identity is not None]
    keys = differing(identities, OF_PRUNING)
    why = f"that differ in {describe_differences(identities, keys)}" if keys else "of several versions"
    listed = "\n".join(f"  {group.variant or OLDER}: {_listed(group.runs)}" for group in grouped.dense)
    raise UserError(
        f"a study needs one adaptation per training seed, but these are runs {why}:\n{listed}\nname the folders of one of "
        "them, or compare them with python -m edgenetllm.compare"
    )


def _check_parents(runs: Sequence[PlayedRun]) -> list[str]:
    """The runs of a training seed share an adaptation, hence the dense parent; small deviations are only noted."""
    notes = []
    by_seed: dict[int, PlayedRun] = {}
    for run in runs:
        first = by_seed.setdefault(run.results.seed, run)
        means = [float(one.values["dense"].mean()) for one in (first, run)]
        if np.allclose(run.values["dense"], first.values["dense"], rtol=SAME, atol=1e-9):
            continue
        text = f"seed {run.results.seed}: the dense parent of {{}} reaches {means[0]:.6g}, that of {{}} {means[1]:.6g}"
        if not math.isclose(*means, rel_tol=NEAR):
            raise UserError(
                f"{text.format(first.folder, run.folder)}: they come from different adaptations; name the folders of one "
                "adaptation per training seed"
            )
        notes.append(text.format(first.name, run.name))
    return notes


def _left_out(every: Sequence[FinishedRun], left_out: Sequence[LeftOut]) -> list[str]:
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
