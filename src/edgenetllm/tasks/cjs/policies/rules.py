"""Scheduling rules, compiled. Each reads one episode's observation and returns (index in the schedulable list, executors).

An index of -1 leaves all executors that are still to be handed out to the common pool.

    capped    FIFO, Fair and weighted fair: jobs in order of arrival up to a cap, the source job first
    shortest  SJF-CP and SRPT: the job with the least work, the stage with the longest path
    wide      a linear score of jobs and stages and a cap per job, see `wide_rule.py`
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.cjs.columns import (
    JOB,
    READY,
    SCHEDULABLE,
    SUPPLY,
    WORK,
)
from edgenetllm.tasks.cjs.policies.compiled import njit
from edgenetllm.tasks.cjs.policies.wide_rule import wide

# Kinds of rules.
CAPPED = 0
SHORTEST = 1
WIDE = 2


@njit(cache=True, _nrt=False)
def _stage_of(stages, count, job, column):
    """The first of a job's schedulable stages with the most of `column`: READY, PATH or WHOLE_PATH.

    Returns its index in the schedulable list, -1 where the job has none.
    """
    index = -1
    best = best_row = -1
    for n in range(count):
        if stages[n, SCHEDULABLE] == 0:
            continue
        index += 1
        if stages[n, JOB] != job:
            continue
        if best < 0 or stages[n, column] > stages[best_row, column]:
            best, best_row = index, n
    return best


@njit(cache=True, _nrt=False)
def capped(stages, jobs, n_stages, n_jobs, committable, source, executors, fixed_cap, alpha):
    """`fixed_cap` executors a job, or (0) the job's fraction of the cluster by work ** alpha."""
    if source >= 0:
        index = _stage_of(stages, n_stages, source, READY)
        if index >= 0:
            return index, committable
    total = 0.0
    for j in range(n_jobs):
        total += jobs[j, WORK] ** alpha
    for j in range(n_jobs):
        cap = fixed_cap if fixed_cap > 0 else int(np.ceil(executors * jobs[j, WORK] ** alpha / total - 1e-9))
        if j != source and jobs[j, SUPPLY] < cap:
            index = _stage_of(stages, n_stages, j, READY)
            if index >= 0:
                return index, min(committable, cap - int(jobs[j, SUPPLY]))
    return -1, committable


@njit(cache=True, _nrt=False)
def shortest(stages, jobs, n_stages, n_jobs, committable, source, column, path_column, cap):
    """The job with the least of `column` (WORK or LEFT) among those below `cap` executors, of which the source job's own
    that are to be handed out do not count."""
    best = best_job = -1
    for j in range(n_jobs):
        room = cap - jobs[j, SUPPLY] + (committable if j == source else 0)
        if room > 0 and (best_job < 0 or jobs[j, column] < jobs[best_job, column]):
            index = _stage_of(stages, n_stages, j, path_column)
            if index >= 0:
                best, best_job = index, j
    if best < 0:
        return -1, committable
    room = cap - int(jobs[best_job, SUPPLY]) + (committable if best_job == source else 0)
    return best, min(committable, room)


@njit(cache=True, _nrt=False)
def choose(kind, weights, stages, jobs, n_stages, n_jobs, committable, source, executors):
    """The rule number `kind` with its weights (see the functions in `baselines.py` for their meaning)."""
    if kind == CAPPED:
        return capped(
            stages,
            jobs,
            n_stages,
            n_jobs,
            committable,
            source,
            executors,
            int(np.ceil(weights[0] * executors)),
            weights[1],
        )
    if kind == SHORTEST:
        cap = int(np.ceil(weights[0] * executors))
        return shortest(stages, jobs, n_stages, n_jobs, committable, source, int(weights[1]), int(weights[2]), cap)
    return wide(stages, jobs, n_stages, n_jobs, committable, source, executors, weights)


@njit(cache=True, _nrt=False)
def choose_all(kind, weights, stages, jobs, n_stages, n_jobs, committable, source, executors, actions):
    """One decision of every episode that is not done into actions (episodes, 2); others get (-1, 0)."""
    for n in range(len(n_stages)):
        actions[n, 0], actions[n, 1] = -1, 0
        if committable[n] > 0:
            actions[n] = choose(
                kind, weights, stages[n], jobs[n], n_stages[n], n_jobs[n], committable[n], source[n], executors[n]
            )
