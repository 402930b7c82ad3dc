"""A lower bound on the mean completion time: what no scheduler can beat on average, however well it sees ahead."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Tables


def mean_jct_bound_ms(jobs: Sequence[Job], tables: Tables, executors: int) -> float:
    """The larger of two relaxations, in expectation over durations.

    All executors together as one machine that can share itself out freely: shortest remaining processing time is then the
    best order. And infinitely many executors: a job takes as long as its longest chain of stages. A task takes the least
    that any executor count and wave of its stage has as a mean, without warm-up and moving. Loose on a large cluster, where
    tasks run slower than that.
    """
    work, chain = least_work_ms(tables), least_chain_ms(tables)
    profile = [job.profile for job in jobs]
    shared = srpt_ms([job.arrival_ms for job in jobs], work[profile] / executors)
    return max(shared, float(chain[profile].mean()))


def least_task_ms(tables: Tables) -> npt.NDArray[np.float64]:
    """(stages,) the least mean duration of a task over waves and executor counts."""
    measured = tables.rows["count"] > 0
    return np.asarray(np.where(measured, tables.rows["mean_ms"], np.inf).min((1, 2)))


def least_work_ms(tables: Tables) -> npt.NDArray[np.float64]:
    """(profiles,) sum over all tasks."""
    return np.add.reduceat(tables.stages["tasks"] * least_task_ms(tables), tables.first[:-1])


def least_chain_ms(tables: Tables) -> npt.NDArray[np.float64]:
    """(profiles,) the longest way through the job with one task per stage."""
    task = least_task_ms(tables)
    longest = np.zeros(len(task))
    for base, end in zip(tables.first[:-1], tables.first[1:], strict=True):
        for number in tables.stages["order"][base:end]:  # children before parents
            stage = tables.stages[base + number]
            children = tables.links[stage["first_child"] : stage["first_child"] + stage["children"]]
            longest[base + number] = task[base + number] + max((longest[base + child] for child in children), default=0)
    return np.maximum.reduceat(longest, tables.first[:-1])


def srpt_ms(arrival_ms: Sequence[float], length_ms: npt.NDArray[np.float64]) -> float:
    """Mean completion time on one preemptible machine that always serves the job with the least left; arrivals ascend."""
    waiting: list[tuple[float, float]] = []  # time left, arrival
    now = total = 0.0
    upcoming = [*zip(arrival_ms, length_ms, strict=True), (np.inf, 0.0)]
    for arrival, length in upcoming:
        while waiting and now < arrival:
            left, came = heapq.heappop(waiting)
            if now + left > arrival:
                heapq.heappush(waiting, (left - (arrival - now), came))
                break
            now += left
            total += now - came
        now = arrival
        heapq.heappush(waiting, (float(length), float(arrival)))
    return total / len(arrival_ms)
