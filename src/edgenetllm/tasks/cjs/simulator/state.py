"""State of scheduling episodes as flat records: what the compiled events read and write.

Every pool of executors has a number: 0 is the common pool, 1 + j the idle executors of job j, 1 + jobs + s the executors
on stage s (busy, or just finished there). Stages are numbered through all jobs of an episode. -1 stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Tables
from edgenetllm.tasks.randomness import mix

Records = npt.NDArray[np.void]

JOB = np.dtype(
    [
        ("arrival_ms", np.float64),
        ("completed_ms", np.float64),  # NaN until then
        ("work_ms", np.float64),  # of the profile
        ("first", np.int32),  # its stages
        ("stages", np.int32),
        ("incomplete", np.int32),  # stages with unfinished tasks
        ("unstarted", np.int32),  # stages with tasks that have not started; 0: the job is saturated
        ("local", np.int32),  # executors at the job, busy or idle
        ("supply", np.int32),  # executors in its pools, moving to it, or committed to it from elsewhere
    ],
    align=True,
)
STAGE = np.dtype(
    [
        ("recent_ms", np.float64),  # duration of the task started last
        ("rough_ms", np.float64),
        ("path_ms", np.float64),
        ("left_path_ms", np.float64),  # the same of tasks that have not started, when observed last
        ("job", np.int32),
        ("row", np.int32),  # its durations in Tables.rows
        ("tasks", np.int32),
        ("remaining", np.int32),  # tasks not started
        ("unfinished", np.int32),
        ("missing", np.int32),  # parents that are not complete
        ("moving_to", np.int32),
        ("committed_to", np.int32),
        ("chosen", np.int32),  # the decision round that chose it last
        ("listed", np.int32),  # entry k is the k-th schedulable stage (the list, not a property of this stage)
        ("first_parent", np.int32),
        ("parents", np.int32),
        ("first_child", np.int32),
        ("children", np.int32),
        ("level", np.int32),
        ("order", np.int32),  # entry k of a job is its k-th stage, children before parents
        ("node", np.int32),  # its row in the observation being built
    ],
    align=True,
)
POOL = np.dtype([("size", np.int32), ("committed", np.int32), ("head", np.int32), ("tail", np.int32)], align=True)
EXECUTOR = np.dtype(
    [
        ("heap_ms", np.float64),  # entry k of the heap of events, earliest first: when
        ("heap_counter", np.int64),  # ties of time go to the event pushed first
        ("job", np.int32),  # where it is local
        ("pool", np.int32),  # -1 while it moves
        ("stage", np.int32),  # of its last task; -1 when it comes fresh
        ("target", np.int32),  # the stage that it moves to; -1 unless it moves
        ("busy", np.int32),
        ("heap", np.int32),  # and whose it is: its task is finished, or it arrives
    ],
    align=True,
)
COMMITMENT = np.dtype(
    [
        ("target", np.int32),
        ("count", np.int32),
        ("next", np.int32),
        ("waiting", np.int32),  # entry k is the k-th pool to be handed out after the decision that is waited for
    ],
    align=True,
)
META = np.dtype(
    [
        ("now_ms", np.float64),
        ("active_ms", np.float64),  # integral of the number of active jobs
        ("moving_ms", np.float64),
        ("warmup_ms", np.float64),
        ("owed_ms", np.float64),  # job-milliseconds of waits that are in no reward yet
        ("seed", np.uint64),  # mixed
        ("counter", np.int64),
        ("sampled", np.int32),  # 0: mean durations
        ("source", np.int32),  # pool whose executors are being handed out
        ("arrived", np.int32),
        ("oldest", np.int32),  # no job before it is active
        ("active", np.int32),
        ("heap", np.int32),  # events waiting
        ("free", np.int32),  # first unused commitment record
        ("round", np.int32),
        ("schedulable", np.int32),  # length of the list of schedulable stages
        ("idling", np.int32),  # 1 in a round that opened because everything stood still
        ("waiting", np.int32),  # pools that became due while a decision was waited for
        ("waited", np.int32),  # 1 when time has passed since the observation
        ("offered", np.int32),  # executors in that observation
        ("done", np.int32),
        ("decisions", np.int32),
        ("tasks", np.int32),  # started so far
        ("taken_job", np.int32),  # of the last decision: -1 when everything was left to the common pool
        ("taken_stage", np.int32),
        ("taken_executors", np.int32),
    ],
    align=True,
)
TASK = np.dtype(
    [
        ("start_ms", np.float64),
        ("duration_ms", np.float64),
        ("job", np.int32),
        ("stage", np.int32),  # inside the job
        ("executor", np.int32),
        ("local", np.int32),
        ("wave", np.int32),  # FRESH, FIRST, REST, or 3: fresh, but measured only warm
        ("level", np.int32),  # executor count that the duration was measured with
    ],
    align=True,
)


class State(NamedTuple):
    """Episodes side by side: each array (episodes, ...) of the records above, padded to the longest."""

    jobs: Records
    stages: Records
    pools: Records
    executors: Records
    commitments: Records
    meta: Records

    def copy(self) -> State:
        return State(*(records.copy() for records in self))


class Rules(NamedTuple):
    """The facts that are the same for every episode of a setting."""

    executors: int
    moving_ms: float = 2000.0  # an executor moves between jobs
    warmup_ms: float = 1000.0  # added to a first-wave duration where no fresh one was measured
    sampled: bool = True  # durations: sampled from the measurements, or their means


def new_state(episodes: Sequence[Sequence[Job]], seeds: npt.NDArray[np.int64], tables: Tables, rules: Rules) -> State:
    """State before the first event. Raises UserError for jobs out of order, negative arrivals, no jobs or no executors,
    ValueError for tables that `tabulate` does not make."""
    # Check the input; a stage without tasks would never be complete (`profiles.check` knows none).
    if (tables.stages["tasks"] < 1).any():
        raise ValueError("every stage needs at least one task")
    if rules.executors < 1:
        raise UserError(f"{rules.executors} executors: there must be at least 1 (data.executors, num_executors)")
    for jobs in episodes:
        _check_jobs(jobs, tables)
    # Empty records, as many as the largest episode needs.
    count = len(episodes)
    most_jobs = max(map(len, episodes))
    sizes = np.diff(tables.first)
    most_stages = max(sum(int(sizes[job.profile]) for job in jobs) for jobs in episodes)
    state = State(
        np.zeros((count, most_jobs), JOB),
        np.zeros((count, most_stages), STAGE),
        np.zeros((count, 1 + most_jobs + most_stages), POOL),
        np.zeros((count, rules.executors), EXECUTOR),
        np.zeros((count, rules.executors + 1), COMMITMENT),
        np.zeros(count, META),
    )
    # Jobs and stages, then all executors in the common pool.
    for number, jobs in enumerate(episodes):
        _place_jobs(state.jobs[number], state.stages[number], jobs, tables)
    state.pools["head"] = -1
    state.pools["size"][:, 0] = rules.executors
    for name, value in (("job", -1), ("stage", -1), ("target", -1)):
        state.executors[name] = value
    state.commitments["next"] = np.r_[np.arange(1, rules.executors + 1), -1]
    state.meta["moving_ms"], state.meta["warmup_ms"] = rules.moving_ms, rules.warmup_ms
    state.meta["sampled"], state.meta["source"], state.meta["round"] = rules.sampled, -1, 1
    state.meta["seed"] = mix(np.asarray(seeds, np.int64).view(np.uint64))
    return state


def _check_jobs(jobs: Sequence[Job], tables: Tables) -> None:
    if not jobs:
        raise UserError("an episode needs at least one job")
    before = 0.0
    for number, job in enumerate(jobs):
        if not 0 <= job.profile < len(tables.names):
            raise UserError(f"job {number}: there is no profile {job.profile}, only 0 to {len(tables.names) - 1}")
        if not (np.isfinite(job.arrival_ms) and job.arrival_ms >= 0):
            raise UserError(f"job {number} ({tables.names[job.profile]}) arrives at {job.arrival_ms} ms")
        if job.arrival_ms < before:
            raise UserError(f"job {number} ({tables.names[job.profile]}) arrives before the job above it")
        before = job.arrival_ms


def _place_jobs(jobs: Records, stages: Records, drawn_jobs: Sequence[Job], tables: Tables) -> None:
    """Fill the records of one episode. Jobs beyond the last one stay without stages: they never arrive."""
    # Jobs, and where their stages begin.
    profile = np.array([job.profile for job in drawn_jobs])
    arrival = [job.arrival_ms for job in drawn_jobs]
    count = np.diff(tables.first)[profile]
    first = np.r_[0, np.cumsum(count)]
    jobs["arrival_ms"] = np.inf
    jobs["completed_ms"] = np.nan
    used = jobs[: len(drawn_jobs)]
    used["arrival_ms"], used["work_ms"] = arrival, tables.work_ms[profile]
    used["first"], used["stages"] = first[:-1], count
    used["incomplete"] = used["unstarted"] = count
    # Stages: copied from the tables, then what is counted down.
    row = np.arange(first[-1]) - np.repeat(first[:-1] - tables.first[profile], count)
    filled, source = stages[: first[-1]], tables.stages[row]
    for name in (
        "rough_ms",
        "path_ms",
        "tasks",
        "first_parent",
        "parents",
        "first_child",
        "children",
        "level",
        "order",
    ):
        filled[name] = source[name]
    filled["job"] = np.repeat(np.arange(len(drawn_jobs)), count)
    filled["row"] = row
    filled["remaining"] = filled["unfinished"] = filled["tasks"]
    filled["missing"] = filled["parents"]
