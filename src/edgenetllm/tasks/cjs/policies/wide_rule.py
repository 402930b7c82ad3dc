"""A rule that sees more than the tuned one: ranks, ages, the whole backlog, what a stage is like. Compiled.

Score of a stage = JOB_FEATURES of its job times the `score_...` weights + STAGE_FEATURES times the `stage_...` weights
                   - `full` where the job is at its cap
ln(cap / executors) = JOB_FEATURES times the `cap_...` weights, at most 0

The stage with the highest score gets as many executors as its job's cap leaves. Executors are never left idle: a job at its
cap gets at least one. The cluster is not work conserving, so that weights which idle a little now and then are a small step
from weights which starve a job. The tuned rule is the same with 11 of the weights, and zeros elsewhere (`from_linear`).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.columns import (
    AGE,
    DEMAND,
    JOB,
    JOB_PATH,
    LEFT,
    LEVEL,
    PATH,
    READY,
    RECENT,
    ROUGH,
    SCHEDULABLE,
    SUPPLY,
    WHOLE_PATH,
    WORK,
)
from edgenetllm.tasks.cjs.policies.compiled import njit

# Work "left" is of tasks that have not started; logarithms are natural; "share" is of the sum over active jobs.
JOB_FEATURES = (
    "relative_work",  # ln(work left over the mean of the active jobs)
    "source",  # 1: the job that the executors are at
    "work",  # ln(work left in units of 100 s)
    "path",  # ln(longest path / work left)
    "jobs",  # ln(active jobs)
    "share",  # its fraction of all work left
    "constant",
    "rank",  # fraction of active jobs with less work left
    "smaller",  # fraction of work left that is theirs
    "age",  # ln of the seconds since arrival + 10, in units of 100 s
    "supply",  # executors that it has or is about to have, as a fraction of the cluster
    "backlog",  # ln(all work left in units of 1000 s)
    "work_squared",
    "offered",  # executors to hand out, as a fraction of the cluster
    "demand",  # tasks of its schedulable stages without an executor, over the cluster's size, at most 2
)
STAGE_FEATURES = (
    "ready",  # 1: all parents complete
    "level",  # stages below it, on the longest way
    "demand",  # ln(1 + tasks without an executor)
    "duration",  # ln(mean task duration in s)
    "critical",  # its longest way to the end of the job over the longest of the job
    "usable",  # tasks without an executor over executors to hand out, at most 2
    "running",  # 1: a task has started
    "depth",  # the way before any task had started, over the job's work
)
WIDE_WEIGHTS = (
    *(f"score_{name}" for name in JOB_FEATURES),
    *(f"cap_{name}" for name in JOB_FEATURES),
    *(f"stage_{name}" for name in STAGE_FEATURES),
    "full",  # penalty of a job at its cap
    "over",  # which may still get executors, up to exp(over) times the cap
)
LINEAR_WEIGHTS = (
    "work",  # times -ln(work left / mean over jobs)
    "source",  # bonus of the job that the executors are at
    "full",  # penalty of a job at its cap
    "ready",  # bonus of a stage whose parents are complete
    "level",  # times the stages below a stage, on the longest way
    "cap",  # ln cap/N = cap + cap_work ln(work left in units of 100 s) + ...
    "cap_work",
    "cap_path",  # ... times ln(longest path / work left)
    "cap_jobs",  # ... times ln(active jobs)
    "cap_share",  # ... times the job's fraction of all work left
    "over",  # a job at its cap may still get executors, up to exp(over) times the cap
)
# Places in WIDE_WEIGHTS: where the weights of a job's cap, then those of a stage begin, and the weight "full".
_CAP = len(JOB_FEATURES)
_STAGE = 2 * len(JOB_FEATURES)
_FULL = _STAGE + len(STAGE_FEATURES)
# Places in JOB_FEATURES.
_RANK = JOB_FEATURES.index("rank")
_SMALLER = JOB_FEATURES.index("smaller")
_DEMAND = JOB_FEATURES.index("demand")


def from_linear(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The WIDE_WEIGHTS of the tuned rule: `weights` are in the order of LINEAR_WEIGHTS."""
    work, source, full, ready, level, cap, cap_work, cap_path, cap_jobs, cap_share, over = weights
    known = {
        "score_relative_work": -work, "score_source": source, "stage_ready": ready, "stage_level": level,
        "cap_constant": cap, "cap_work": cap_work, "cap_path": cap_path, "cap_jobs": cap_jobs, "cap_share": cap_share,
        "full": full, "over": over,
    }  # fmt: skip
    return np.array([known.get(name, 0.0) for name in WIDE_WEIGHTS])


@njit(cache=True, _nrt=False)
def _total(jobs, n_jobs):
    total = 0.0
    for j in range(n_jobs):
        total += jobs[j, LEFT]
    return max(total, 1.0)


@njit(cache=True, _nrt=False)
def _reads_others(weights):
    """True where a feature counts that takes a look at every other job or stage: rank, smaller, demand."""
    size = 0.0
    for feature in (_RANK, _SMALLER, _DEMAND):
        size += abs(weights[feature]) + abs(weights[_CAP + feature])
    return size > 0


@njit(cache=True, _nrt=False)
def _job_features(stages, jobs, n_stages, n_jobs, j, total, committable, source, executors, reads_others):
    left = max(jobs[j, LEFT], 1.0)
    # Features that look at all other jobs or stages, where a weight uses them.
    rank = smaller = demand = 0.0
    for k in range(n_jobs if reads_others else 0):
        if jobs[k, LEFT] < jobs[j, LEFT] or (jobs[k, LEFT] == jobs[j, LEFT] and k < j):
            rank += 1.0
            smaller += jobs[k, LEFT]
    for n in range(n_stages if reads_others else 0):
        if stages[n, JOB] == j and stages[n, SCHEDULABLE] > 0:
            demand += stages[n, DEMAND]
    # All features, in the order of JOB_FEATURES.
    work = np.log(left / 1e5)
    return (
        np.log(left * n_jobs / total),
        1.0 if j == source else 0.0,
        work,
        np.log(max(jobs[j, JOB_PATH], 1.0) / left),
        np.log(n_jobs),
        left / total,
        1.0,
        rank / n_jobs,
        smaller / total,
        np.log((jobs[j, AGE] + 1e4) / 1e5),
        jobs[j, SUPPLY] / executors,
        np.log(total / 1e6),
        work * work,
        committable / executors,
        min(demand / executors, 2.0),
    )


@njit(cache=True, _nrt=False)
def _stage_score(stage, job, committable, weights):
    return (
        weights[_STAGE] * stage[READY]
        + weights[_STAGE + 1] * stage[LEVEL]
        + weights[_STAGE + 2] * np.log(stage[DEMAND] + 1.0)
        + weights[_STAGE + 3] * np.log(max(stage[ROUGH], 1.0) / 1e3)
        + weights[_STAGE + 4] * stage[PATH] / max(job[JOB_PATH], 1.0)
        + weights[_STAGE + 5] * min(stage[DEMAND] / committable, 2.0)
        + weights[_STAGE + 6] * (1.0 if stage[RECENT] > 0 else 0.0)
        + weights[_STAGE + 7] * stage[WHOLE_PATH] / max(job[WORK], 1.0)
    )


@njit(cache=True, _nrt=False)
def _of_job(stages, jobs, n_stages, n_jobs, j, total, committable, source, executors, weights):
    """Score of a job, and the executors that it may still get."""
    others = _reads_others(weights)
    features = _job_features(stages, jobs, n_stages, n_jobs, j, total, committable, source, executors, others)
    score = exponent = 0.0
    for k in range(len(features)):
        score += weights[k] * features[k]
        exponent += weights[_CAP + k] * features[k]
    cap = executors * np.exp(min(exponent, 0.0))
    room = cap - jobs[j, SUPPLY] + (committable if j == source else 0)
    if room < 0.5:
        score -= weights[_FULL]
        room += cap * (np.exp(weights[_FULL + 1]) - 1.0)
    return score, room


@njit(cache=True, _nrt=False)
def wide(stages, jobs, n_stages, n_jobs, committable, source, executors, weights):
    """(Index in the schedulable list, executors): the highest score, the first of equals."""
    total = _total(jobs, n_jobs)
    best, best_room, best_row = -1, 0.0, -1
    best_score = -np.inf
    index = last = -1
    of_job = room = 0.0
    for n in range(n_stages):
        if stages[n, SCHEDULABLE] == 0:
            continue
        index += 1
        j = int(stages[n, JOB])
        if j != last:
            last = j
            of_job, room = _of_job(stages, jobs, n_stages, n_jobs, j, total, committable, source, executors, weights)
        score = of_job + _stage_score(stages[n], jobs[j], committable, weights)
        if score > best_score:
            best_score, best, best_room, best_row = score, index, room, n
    requested = max(1, int(np.floor(best_room + 0.5)))
    return best, min(requested, committable, int(stages[best_row, DEMAND]))


@njit(cache=True, _nrt=False)
def score_all(stages, jobs, n_stages, n_jobs, committable, source, executors, weights, scores):
    """Scores of the schedulable list of every episode that is not done into `scores` (episodes, most stages), else -inf."""
    for e in range(len(n_stages)):
        # An episode without executors to give has no scores.
        scores[e] = -np.inf
        if committable[e] <= 0:
            continue
        # Score of every job once, and of its schedulable stages.
        total = _total(jobs[e], n_jobs[e])
        index = last = -1
        of_job = 0.0
        for n in range(n_stages[e]):
            if stages[e, n, SCHEDULABLE] == 0:
                continue
            index += 1
            j = int(stages[e, n, JOB])
            if j != last:
                last = j
                of_job, _ = _of_job(
                    stages[e],
                    jobs[e],
                    n_stages[e],
                    n_jobs[e],
                    j,
                    total,
                    committable[e],
                    source[e],
                    executors[e],
                    weights,
                )
            scores[e, index] = of_job + _stage_score(stages[e, n], jobs[e, j], committable[e], weights)
