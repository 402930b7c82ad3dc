"""A pool from logged decisions (experience=recorded); docs/logs.md has their form and the rules that are applied here.

Values that are not known are null; an episode is used up to the first decision of which the observation or the reward is not
known, or that is missing. Values that cannot be, such as a reward that is NaN or an action out of range, are refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.experience.entries import CutOff
from edgenetllm.experience.log_files import Row
from edgenetllm.experience.logged_rows import LogForm, LoggedDecision, LoggedEpisode, add_row
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import Column, Episodes
from edgenetllm.tasks.task import Array


@dataclass(frozen=True)
class Recorded:
    """Episodes of a log, and what became of it in numbers."""

    episodes: Episodes
    reference: np.ndarray | None  # (episodes,)
    notes: list[str]


def recorded_episodes(rows: Iterable[Row], form: LogForm, cut_off: CutOff, best: float) -> Recorded:
    """The episodes of the task `form.task` in these rows, the fraction `best` of them with the highest returns.

    `cut_off`: what is done with episodes whose end is not in the log. Raises UserError, naming file, line, column and reason,
    for rows that are not understood, and where nothing is left.
    """
    # The rows of this task, by episode.
    logged: dict[tuple[Any, ...], LoggedEpisode] = {}
    others: Counter[str] = Counter()
    for row in rows:
        add_row(row, form, logged, others)
    if not logged:
        there = ", ".join(sorted(others)) or "none at all"
        raise UserError(f"experience.folder: the logs hold no decision of task {form.task} (there are: {there})")
    # Up to where all is known; what has no end may be left out.
    used, references, dropped, unusable = [], [], 0, 0
    for episode in logged.values():
        decisions = episode.usable()
        if not decisions:
            unusable += 1
        elif cut_off == "leave_out" and not _is_whole(episode, len(decisions), form):
            dropped += 1
        else:
            used.append(decisions)
            references.append(episode.reference)
    if not used:
        raise UserError(
            f"experience.folder: no episode of task {form.task} is left: {unusable} lack their first decision or its reward, "
            f"{dropped} were cut off before their end (experience.cut_off=keep uses these too)"
        )
    # The best of them, in the order of the log.
    reference = _reference(used, references, form)
    returns = np.array([math.fsum(one.reward for one in decisions) for decisions in used])
    if reference is not None:
        returns = (returns - reference) / np.abs(reference)
    count = max(1, math.ceil(best * len(used) - 1e-9))
    chosen = np.sort(np.argsort(-returns, kind="stable")[:count])
    notes = [f"{len(chosen)} of {len(logged)} logged episodes"]
    notes += [f"{dropped} that were cut off are left out"] * bool(dropped)
    notes += [f"{unusable} lack their first decision or its reward"] * bool(unusable)
    notes += [f"{len(used) - count} of lower returns are left out"] * (count < len(used))
    notes += [f"{sum(others.values())} decisions are of other tasks ({', '.join(sorted(others))})"] * bool(others)
    chosen_reference = None if reference is None else reference[chosen]
    return Recorded(_episodes([used[index] for index in chosen], form), chosen_reference, notes)


def _is_whole(episode: LoggedEpisode, steps: int, form: LogForm) -> bool:
    """True where an episode is known to its end: as the log marks it, at the longest that there is, or else all there is.

    Of an episode that is marked, the reward of the last decision may be unknown.
    """
    if steps == form.most_steps:
        return True
    if episode.marked:
        return episode.last is not None and episode.last in (steps - 1, steps)
    return steps == len(episode.places)


def _reference(used: list[list[LoggedDecision]], references: list[float | None], form: LogForm) -> np.ndarray | None:
    """The reference returns (episodes,) of a task with relative returns; those that the log lacks are the mean return.

    Raises UserError where only some episodes have one, and for a mean of 0.
    """
    if not form.relative:
        return None
    known = [one for one in references if one is not None]
    if known and len(known) < len(references):
        at = used[references.index(None)][0].where
        raise UserError(f"{at}: column reference is missing, and other episodes have it: give it to all or to none")
    if known:
        return np.array(known)
    mean = float(np.mean([math.fsum(one.reward for one in decisions) for decisions in used]))
    if mean == 0:
        raise UserError(
            f"experience.folder: the logged returns of task {form.task} are 0 on average: give column reference"
        )
    return np.full(len(used), mean)


def _episodes(chosen: list[list[LoggedDecision]], form: LogForm) -> Episodes:
    """Columns (episodes, steps, ...), zero after the end of an episode."""
    shape = len(chosen), max(map(len, chosen))
    valid = np.zeros(shape, bool)
    for number, decisions in enumerate(chosen):
        valid[number, : len(decisions)] = True
    every = [decision for decisions in chosen for decision in decisions]  # in the order of the mask

    def filled(values: list[Array]) -> Array:
        stacked = np.stack(values)
        column = np.zeros((*shape, *stacked.shape[1:]), stacked.dtype)
        column[valid] = stacked
        return column

    observation: dict[str, Column] = {}
    for name, ragged in form.inputs.items():
        values = [one.observation[name] for one in every]
        if ragged:
            count = np.zeros(shape, np.int32)
            count[valid] = [len(rows) for rows in values]
            observation[name] = RaggedColumn(np.concatenate(values), count)
        else:
            observation[name] = filled(values)
    return Episodes(
        observation=observation,
        action=filled([one.action for one in every]),
        reward=filled([np.array(one.reward) for one in every]),
        valid=valid,
        record={},
        target=None,
        return_to_go=None,
        decision_ms=np.zeros(0),
    )
