"""The bounds of a job profile: far beyond every measured job, and narrow enough that each is read, and played, in seconds.

The public profiles have at most 18 stages with 19 edges, 3,717 tasks and 33,453 durations, each of 3 ms to 40 s, on 2 to 100 executors.
"""

from __future__ import annotations

from edgenetllm.tasks.cjs.simulator.profiles import Profile

LARGEST_FILE = 4 * 2**20  # bytes of one profile; of a public one 100 kB
MOST_STAGES = 1_000
MOST_EDGES = 20_000  # between them
MOST_TASKS = 1_000_000  # of a job
MOST_DURATIONS = 200_000  # measured, of a job
MOST_EXECUTORS = 1_000_000  # that a job had when it was measured
LONGEST_MS = 1e9  # of a task, more than 11 days


def check_limits(profile: Profile) -> None:
    """Raises ValueError that says which of these bounds a profile passes."""
    if len(profile.stages) > MOST_STAGES:
        raise ValueError(f"it has {len(profile.stages):,} stages; the most that is read are {MOST_STAGES:,}")
    if len(profile.edges) > MOST_EDGES:
        raise ValueError(f"its stages need {len(profile.edges):,} others; the most that is read are {MOST_EDGES:,}")
    tasks = sum(stage.tasks for stage in profile.stages)
    if tasks > MOST_TASKS:
        raise ValueError(f"its stages have {tasks:,} tasks together; the most that is read are {MOST_TASKS:,}")
    rows = {id(row): row for stage in profile.stages for table in stage.measured() for row in table.values()}
    check_durations(sum(map(len, rows.values())))  # a list that serves several executor counts counts once
    for number, stage in enumerate(profile.stages):
        if not any(value for table in stage.measured() for row in table.values() for value in row):
            raise ValueError(f"stage {number}: every duration is 0")


def check_durations(count: int) -> None:
    """Raises ValueError for more measured durations than a job may have."""
    if count > MOST_DURATIONS:
        raise ValueError(f"it has {count:,} measured durations; the most that is read are {MOST_DURATIONS:,}")
