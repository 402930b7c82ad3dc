"""The observation of a scheduler, built by compiled code: incomplete stages of active jobs, these jobs, and edges.

    stages  rows by arrival of the job, then number of the stage; columns as in STAGE_COLUMNS
    jobs    active jobs by arrival; columns as in JOB_COLUMNS
    edges   (parent, child) as rows of `stages`
    committable   executors of the source that can be handed out now
    source_job    row of the job that they belong to; -1 when they come from the common pool or a completed job
    executors     in the cluster

A stage is there as long as it is incomplete, even when all its tasks have started.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.cjs.columns import (
    AGE,
    DEMAND,
    ID,
    JOB,
    JOB_COLUMNS,
    JOB_PATH,
    LEFT,
    LEVEL,
    PATH,
    READY,
    RECENT,
    REMAINING,
    ROUGH,
    SCHEDULABLE,
    STAGE_COLUMNS,
    SUPPLY,
    WHOLE_PATH,
    WORK,
)
from edgenetllm.tasks.cjs.compiled import njit
from edgenetllm.tasks.cjs.simulator.events import _demand, _pool_job, committable
from edgenetllm.tasks.cjs.simulator.state import State
from edgenetllm.tasks.task import Observation, Ragged


@njit(cache=True, _nrt=False)
def observe(jobs, stages, pools, executors, metas, links, stage_rows, job_rows, edge_rows):
    """Write one episode's rows; returns (stages, jobs, edges, committable, source job)."""
    # Mark the schedulable stages, until their rows are written.
    meta = metas[0]
    nodes = actives = edges = 0
    source = -1
    source_job = _pool_job(meta.source, jobs, stages)
    for k in range(meta.schedulable):
        stages[stages[k].listed].node = -2  # marks the schedulable
    for j in range(meta.oldest, meta.arrived):
        job = jobs[j]
        if job.incomplete == 0:
            continue
        if j == source_job:
            source = actives
        # Work and longest path that are left in the job.
        left = longest = 0.0
        for k in range(job.first, job.first + job.stages):  # children before parents
            number = job.first + stages[k].order
            stage = stages[number]
            below = 0.0
            for c in range(stage.first_child, stage.first_child + stage.children):
                below = max(below, stages[job.first + links[c]].left_path_ms)
            work = stage.remaining * stage.rough_ms
            stage.left_path_ms = work + below
            left += work
            longest = max(longest, stage.left_path_ms)
        # The row of the job, then rows of its stages that are incomplete.
        row = job_rows[actives]
        row[SUPPLY], row[WORK], row[LEFT], row[JOB_PATH] = job.supply, job.work_ms, left, longest
        row[AGE], row[ID] = meta.now_ms - job.arrival_ms, j
        # A row for each incomplete stage.
        for number in range(job.first, job.first + job.stages):
            stage = stages[number]
            schedulable = stage.node == -2
            stage.node = -1
            if stage.unfinished > 0:
                node = stage_rows[nodes]
                node[JOB], node[SCHEDULABLE], node[READY] = actives, schedulable, stage.missing == 0
                node[REMAINING], node[DEMAND] = stage.remaining, max(_demand(stage), 0)
                node[RECENT], node[ROUGH], node[PATH] = stage.recent_ms, stage.rough_ms, stage.left_path_ms
                node[WHOLE_PATH], node[LEVEL] = stage.path_ms, stage.level
                stage.node = nodes
                nodes += 1
        # Edges between rows that are there.
        for number in range(job.first, job.first + job.stages):
            stage = stages[number]
            if stage.node >= 0:
                for c in range(stage.first_child, stage.first_child + stage.children):
                    edge_rows[edges, 0], edge_rows[edges, 1] = stage.node, stages[job.first + links[c]].node
                    edges += 1
        actives += 1
    return nodes, actives, edges, committable(pools, meta), source


@njit(cache=True, _nrt=False)
def observe_all(jobs, stages, pools, executors, metas, links, stage_rows, job_rows, edge_rows, counts):
    """Write the rows of every episode that is not done, and its counts (episodes, 5); of others, zeros."""
    for n in range(len(metas)):
        counts[n] = 0
        counts[n, 4] = -1
        if not metas[n].done:
            row_counts = observe(
                jobs[n], stages[n], pools[n], executors[n], metas[n : n + 1], links,
                stage_rows[n], job_rows[n], edge_rows[n],
            )  # fmt: skip
            for k in range(5):
                counts[n, k] = row_counts[k]


class Observer:
    """Room for the rows of many episodes, reused from decision to decision."""

    def __init__(self, state: State, links: np.ndarray) -> None:
        count, jobs = state.jobs.shape
        edges = int(state.stages["children"].sum(1).max())
        self.links = links
        self.stages = np.zeros((count, state.stages.shape[1], len(STAGE_COLUMNS)), np.float32)
        self.jobs = np.zeros((count, jobs, len(JOB_COLUMNS)), np.float32)
        self.edges = np.zeros((count, edges, 2), np.int32)
        self.counts = np.zeros((count, 5), np.int32)

    def __call__(self, state: State) -> Observation:
        observe_all(
            state.jobs, state.stages, state.pools, state.executors, state.meta, self.links,
            self.stages, self.jobs, self.edges, self.counts,
        )  # fmt: skip
        rows = {}
        for column, name in enumerate(("stages", "jobs", "edges")):
            count = self.counts[:, column].copy()
            values = getattr(self, name)[:, : max(1, count.max())].copy()
            values[np.arange(values.shape[1]) >= count[:, None]] = 0
            rows[name] = Ragged(values, count)
        return {
            **rows,
            "committable": self.counts[:, 3].copy(),
            "source_job": self.counts[:, 4].copy(),
            "executors": np.full(len(self.counts), state.executors.shape[1], np.int32),
        }
