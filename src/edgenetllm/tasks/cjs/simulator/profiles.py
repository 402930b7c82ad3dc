"""Job profiles: the stages of a job, what must precede what, and how long tasks were measured to take.

A measured duration depends on how many executors the job had (the key of a table) and on the wave of the task:

    fresh   first task of an executor that has just come to the job, or waited in it
    first   first task of this stage on an executor that has worked for the job before
    rest    every further task of this stage on the same executor

`check` is the border behind which profiles are trusted; `tabulate` lays them out flat for the compiled simulator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.reading import listed

LEVELS = (5, 10, 20, 40, 50, 60, 80, 100)  # executor counts that durations are looked up for

# Waves of a stage's tasks, the rows of its measured durations.
FRESH = 0  # a task of an executor that has just come to the job
FIRST = 1  # the first task of an executor in this stage, when it has worked for the job before
REST = 2  # all further tasks

Durations = Mapping[int, Sequence[float]]  # executors of the job -> measured milliseconds


@dataclass(frozen=True)
class Stage:
    """Tasks that run the same code on different partitions of the data."""

    tasks: int
    fresh: Durations
    first: Durations
    rest: Durations

    def measured(self) -> tuple[Durations, Durations, Durations]:
        """The measured durations of the three waves."""
        return self.fresh, self.first, self.rest

    def rough_ms(self) -> float:
        """Mean over all measurements of the stage, an estimate that a scheduler may use beforehand."""
        measured = [value for table in self.measured() for row in table.values() for value in row]
        return float(np.mean(measured))


@dataclass(frozen=True)
class Profile:
    """A job: `edges` are pairs (i, j) of stage numbers, j needs the output of i. `source` is the file that errors name."""

    name: str
    source: str
    stages: tuple[Stage, ...]
    edges: tuple[tuple[int, int], ...]

    def work_ms(self) -> float:
        return sum(stage.tasks * stage.rough_ms() for stage in self.stages)


class Axis(NamedTuple):
    """One of the properties that together name a profile."""

    option: str  # data.<option> chooses among the values
    weights: str  # data.<weights> says how often each is drawn
    column: str  # of a recorded list of jobs
    values: Sequence[int | str]


class ProfileData(Protocol):
    """A profile for each combination of the values of its axes, such as query and size."""

    name: str

    @property
    def axes(self) -> Sequence[Axis]: ...

    def profiles(self) -> list[Profile]:
        """One for each combination: all values of the first axis with the first value of the next, and so on."""
        ...


def check(profile: Profile) -> None:
    """Raises UserError that names file and job for a cycle, an edge to nowhere, a stage without tasks or durations."""

    def fail(text: str) -> UserError:
        return UserError(f"{profile.source}: job {profile.name}: {text}")

    # The graph: edges between stages that exist, without a cycle.
    count = len(profile.stages)
    if not count:
        raise fail("it has no stages")
    for i, j in profile.edges:
        if not (0 <= i < count and 0 <= j < count):
            raise fail(f"edge {i} -> {j}, but its stages are 0 to {count - 1}")
    try:
        tuple(TopologicalSorter(_parents(profile)).static_order())
    except CycleError as error:
        raise fail(f"its stages wait for each other in a circle: {listed(error.args[1], mark=' -> ')}") from None
    # The stages: tasks, and durations for every level.
    for number, stage in enumerate(profile.stages):
        if stage.tasks < 1:
            raise fail(f"stage {number} has {stage.tasks} tasks")
        for name, table in (("fresh", stage.fresh), ("first", stage.first), ("rest", stage.rest)):
            for executors, row in table.items():
                if not all(0 <= value < np.inf for value in row):
                    raise fail(
                        f"stage {number}, {name} wave, {executors} executors: a duration is negative or not finite"
                    )
        for level in LEVELS:
            if not any(_row(stage, wave, level) for wave in (FRESH, FIRST)):
                raise fail(f"stage {number} has no durations for {level} executors")


def _parents(profile: Profile) -> dict[int, list[int]]:
    parents: dict[int, list[int]] = {number: [] for number in range(len(profile.stages))}
    for i, j in profile.edges:
        parents[j].append(i)
    return parents


def _children(profile: Profile) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {number: [] for number in range(len(profile.stages))}
    for i, j in profile.edges:
        children[i].append(j)
    return children


def _row(stage: Stage, wave: int, level: int) -> Sequence[float]:
    """Durations of a wave; a level that was not measured in the first wave counts as the largest one that was."""
    key = level if level in stage.first else max(stage.first, default=level)
    return (stage.fresh, stage.first, stage.rest)[wave].get(key, ())


def _mean_ms(row: Sequence[float]) -> float:
    """0 without measurements. Of whole milliseconds the rounded mean, as in the public simulator."""
    if not row:
        return 0.0
    whole = all(value == int(value) for value in row)
    return float(np.floor(np.mean(row) + 0.5) if whole else np.mean(row))


STAGE = np.dtype(
    [
        ("tasks", np.int32),
        ("first_parent", np.int32),  # into `links`
        ("parents", np.int32),
        ("first_child", np.int32),
        ("children", np.int32),
        ("rough_ms", np.float64),
        ("path_ms", np.float64),  # work on the longest way down from here, this stage included
        ("level", np.int32),  # longest way to a stage without children, in edges
        ("order", np.int32),  # entry k of a profile is its k-th stage, children before parents
    ],
    align=True,
)
ROW = np.dtype([("start", np.int32), ("count", np.int32), ("mean_ms", np.float64)], align=True)


@dataclass(frozen=True)
class Tables:
    """Profiles as flat arrays. Stages of profile p are first[p] .. first[p + 1] - 1; links count from first[p]."""

    names: tuple[str, ...]
    first: npt.NDArray[np.int32]  # (profiles + 1,)
    stages: npt.NDArray[np.void]  # (stages,) of STAGE
    links: npt.NDArray[np.int32]  # parents and children of every stage, as stage numbers inside the job
    rows: npt.NDArray[np.void]  # (stages, 3 waves, 8 levels) of ROW: where in `durations` they lie, and their mean
    durations: npt.NDArray[np.float32]  # milliseconds; those of TPC-H are whole numbers below 2 ** 24
    work_ms: npt.NDArray[np.float64]  # (profiles,) tasks times rough duration

    def sha256(self) -> str:
        digest = hashlib.sha256(repr(self.names).encode())
        for array in (self.first, self.stages, self.links, self.rows, self.durations):
            digest.update(array.tobytes())
        return digest.hexdigest()


def tabulate(profiles: Sequence[Profile]) -> Tables:
    """Lay profiles out flat. Raises UserError as `check` does."""
    # Empty tables.
    first: list[int] = [0]
    links: list[int] = []
    durations: list[float] = []
    stages = np.zeros(sum(len(profile.stages) for profile in profiles), STAGE)
    rows = np.zeros((len(stages), 3, len(LEVELS)), ROW)
    for profile in profiles:
        check(profile)
        base, parents, children = first[-1], _parents(profile), _children(profile)
        # Each stage: its tasks, neighbours, and a row of durations per wave and level.
        for number, stage in enumerate(profile.stages):
            entry = stages[base + number]
            entry["tasks"], entry["rough_ms"] = stage.tasks, stage.rough_ms()
            entry["first_parent"], entry["parents"] = len(links), len(parents[number])
            links += sorted(parents[number])
            entry["first_child"], entry["children"] = len(links), len(children[number])
            links += sorted(children[number])
            for wave in (FRESH, FIRST, REST):
                for column, level in enumerate(LEVELS):
                    row = _row(stage, wave, level)
                    rows[base + number, wave, column] = (len(durations), len(row), _mean_ms(row))
                    durations += row
        # From the last stages to the first ones: longest path and level.
        for place, number in enumerate(reversed(tuple(TopologicalSorter(parents).static_order()))):
            stages[base + place]["order"] = number
            below = [stages[base + child] for child in children[number]]
            entry = stages[base + number]
            entry["path_ms"] = entry["tasks"] * entry["rough_ms"] + max(
                (child["path_ms"] for child in below), default=0
            )
            entry["level"] = max((child["level"] + 1 for child in below), default=0)
        first.append(base + len(profile.stages))
    return Tables(
        names=tuple(profile.name for profile in profiles),
        first=np.array(first, np.int32),
        stages=stages,
        links=np.array(links, np.int32),
        rows=rows,
        durations=np.array(durations, np.float32),
        work_ms=np.array([profile.work_ms() for profile in profiles]),
    )
