"""The time that a decision takes, compiled: the cluster goes on between an observation and the action chosen on it.

The public simulator decides in no time. Here, while a decision is waited for:

- the executors that it is about stay idle; those that finish a task and have another one of their stage go on
- executors promised by earlier decisions of the same round go to work at once, but for those whose stage waits for its
  parents inside their own job: they stay promised, and start when it is ready
- jobs arrive, stages and jobs become complete; pools whose executors become free are handed out after this round, in the
  order in which they became due, and the pools of an arrival or of new stages also where they have got executors only since
- when the last job is complete the episode is over, at that moment

Then the action is taken as it was meant: for the same stage, with as many executors as it asks for, the stage can still start
and there still are. A choice of which nothing is left is void, and the rest of the round is asked about again.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.cjs.compiled import njit
from edgenetllm.tasks.cjs.simulator.events import (
    COMMON_POOL,
    all_done,
    committable,
    fulfil,
    keep_working,
    next_event,
)


@njit(cache=True, _nrt=False)
def wait_all(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log, wait_ms):
    """Let `wait_ms` (episodes,) pass in each episode that is not done."""
    for n in range(len(metas)):
        if wait_ms[n] > 0 and not metas[n].done:
            _wait(
                jobs[n], stages[n], pools[n], executors[n], commitments[n], metas[n : n + 1],
                links, rows, durations, log, wait_ms[n],
            )  # fmt: skip


@njit(cache=True, _nrt=False)
def _wait(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log, wait_ms):
    meta = metas[0]
    if not meta.waited:
        meta.waited = 1
        meta.offered = committable(pools, meta)
    source, before, until_ms = meta.source, meta.active_ms, meta.now_ms + wait_ms
    _depart(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log)
    while not all_done(jobs, meta):
        # The next event, if it comes in time.
        keep_working(jobs, stages, executors, meta, rows, durations, log, until_ms)
        if _next_ms(jobs, executors, meta) >= until_ms:
            meta.active_ms += meta.active * (until_ms - meta.now_ms)
            meta.now_ms = until_ms
            break
        arrived = meta.arrived
        meta.source = -1
        next_event(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log)
        # The pool that it would have handed out has to wait.
        due = COMMON_POOL if meta.arrived > arrived else meta.source
        if due >= 0 and due != source:
            _queue(jobs, pools, commitments, meta, due)
        meta.source = source
        _depart(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log)
    meta.owed_ms += meta.active_ms - before


@njit(cache=True, _nrt=False)
def _next_ms(jobs, executors, meta):
    """The time of the next event, infinite without."""
    arrival_ms = jobs[meta.arrived].arrival_ms if meta.arrived < len(jobs) else np.inf
    return min(arrival_ms, executors[0].heap_ms) if meta.heap > 0 else arrival_ms


@njit(cache=True, _nrt=False)
def _depart(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log):
    """Idle executors of the source follow the commitments that send them to work or away."""
    source = meta.source
    for e in range(len(executors)):
        if executors[e].pool == source and not executors[e].busy:
            if not _bring_forward(jobs, stages, pools, commitments, source):
                return
            fulfil(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log, e)


@njit(cache=True, _nrt=False)
def _bring_forward(jobs, stages, pools, commitments, pool):
    """Make the oldest commitment of a pool that does not leave its executor there the first one; False without."""
    source = pools[pool]
    before, entry = -1, source.head
    while entry >= 0:
        number = commitments[entry].target - 1 - len(jobs)
        if number < 0 or pool != 1 + stages[number].job or stages[number].missing == 0 or stages[number].remaining == 0:
            break
        before, entry = entry, commitments[entry].next
    if entry < 0:
        return False
    if before >= 0:
        commitments[before].next = commitments[entry].next
        if source.tail == entry:
            source.tail = before
        commitments[entry].next = source.head
        source.head = entry
    return True


@njit(cache=True, _nrt=False)
def _queue(jobs, pools, commitments, meta, pool):
    """Add a pool to those that wait, once."""
    for k in range(meta.waiting):
        if commitments[k].waiting == pool:
            return
    # There is room for as many pools as can have an executor, and the common one: others are forgotten when it is needed.
    if meta.waiting == len(commitments):
        kept = 0
        for k in range(meta.waiting):
            other = commitments[k].waiting
            if other == COMMON_POOL or pools[other].size > pools[other].committed:
                commitments[kept].waiting = other
                kept += 1
        meta.waiting = kept
    if meta.waiting < len(commitments):
        commitments[meta.waiting].waiting = pool
        meta.waiting += 1
