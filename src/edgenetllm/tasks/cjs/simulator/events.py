"""The events of cluster scheduling, compiled: exact to the public simulator in order, ties and quirks.

Matches `cluster_job_scheduling` of github.com/duowuyms/NetLLM (a fork of spark-sched-sim), which in turn follows Decima's
simulator. Where that one leaves an order to a Python set, executors go in ascending order here. Quirks that are kept:

- an executor that finishes a task takes the next one of its stage, whatever it has been committed to
- a stage counts as schedulable when all its parents are saturated; executors sent early wait in the job's pool
- executors in the common pool are handed out at job arrivals only; the scheduler is not work conserving

Every episode ends, whatever is decided. A round of decisions opens when a job arrives, when a stage has no task to start any
more, or when everything stands still (`_wake`), and each decision of a round but the last gives executors away. Where
everything stands still nothing is committed or on its way, so that a schedulable stage waits for nothing but executors, and
the round that opens then starts a task. So there are at most (executors + 1) decisions for each job and twice each task.

All functions change one episode in place; the arguments are the records of `state.py` and the arrays of `Tables`.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.cjs.compiled import njit
from edgenetllm.tasks.cjs.simulator.durations import task_duration, uniform
from edgenetllm.tasks.cjs.simulator.heap import pop, push, replace_first
from edgenetllm.tasks.cjs.simulator.profiles import LEVELS

COMMON_POOL = 0  # the pool of idle executors that belong to no job


@njit(cache=True, _nrt=False)
def _pool_job(pool, jobs, stages):
    if pool <= COMMON_POOL:
        return -1
    return pool - 1 if pool <= len(jobs) else stages[pool - 1 - len(jobs)].job


@njit(cache=True, _nrt=False)
def _demand(stage):
    return stage.remaining - stage.moving_to - stage.committed_to


@njit(cache=True, _nrt=False)
def _schedulable(stages, links, job, number, round_):
    """True where a stage may be given executors now; its job is active."""
    stage = stages[number]
    if stage.chosen == round_ or _demand(stage) <= 0:
        return False
    for k in range(stage.first_parent, stage.first_parent + stage.parents):
        if _demand(stages[job.first + links[k]]) > 0:
            return False
    return True


@njit(cache=True, _nrt=False)
def list_schedulable(jobs, stages, executors, meta, links, source_job):
    """Write the list into `stages.listed`, by arrival of the job and number of the stage; returns its length."""
    count = 0
    while meta.oldest < meta.arrived and jobs[meta.oldest].incomplete == 0:
        meta.oldest += 1
    for j in range(meta.oldest, meta.arrived):
        job = jobs[j]
        if job.unstarted > 0 and (j == source_job or job.supply < len(executors)):
            for number in range(job.first, job.first + job.stages):
                if _schedulable(stages, links, job, number, meta.round):
                    stages[count].listed = number
                    count += 1
    return count


@njit(cache=True, _nrt=False)
def _last_schedulable(jobs, stages, executors, meta, links, own_job, oldest, youngest):
    """The last entry that the schedulable list of these jobs would have, or -1."""
    for j in range(youngest, oldest - 1, -1):
        job = jobs[j]
        if job.unstarted > 0 and (j == own_job or job.supply < len(executors)):
            for number in range(job.first + job.stages - 1, job.first - 1, -1):
                if _schedulable(stages, links, job, number, meta.round):
                    return number
    return -1


@njit(cache=True, _nrt=False)
def _backup(jobs, stages, executors, meta, links, own_job):
    """Another stage for an executor whose stage has nothing left: the last of its own job, else the last of all; or -1."""
    number = -1
    if own_job >= 0:
        number = _last_schedulable(jobs, stages, executors, meta, links, own_job, own_job, own_job)
    if number < 0:
        number = _last_schedulable(jobs, stages, executors, meta, links, own_job, meta.oldest, meta.arrived - 1)
    return number


@njit(cache=True, _nrt=False)
def _begin_task(jobs, stages, executors, meta, rows, durations, log, e, number):
    """The executor takes the next task of a stage; returns when it will finish."""
    executor, stage = executors[e], stages[number]
    job = jobs[stage.job]
    task = stage.tasks - stage.remaining
    chance = choice = -1.0
    if meta.sampled:
        chance = uniform(meta.seed, 2 * number, task)
        choice = uniform(meta.seed, 2 * number + 1, task)
    duration, wave, column = task_duration(
        stage, executor.stage, number, job.local, meta.warmup_ms, meta.sampled, chance, choice, rows, durations
    )
    if len(log):
        entry = log[meta.tasks]
        entry.start_ms, entry.duration_ms, entry.job, entry.stage = meta.now_ms, duration, stage.job, number - job.first
        entry.executor, entry.local, entry.wave = e, job.local, wave
        entry.level = LEVELS[column]
    meta.tasks += 1
    stage.remaining -= 1
    if stage.remaining == 0:
        job.unstarted -= 1
    stage.recent_ms = duration
    executor.stage = number
    return meta.now_ms + duration


@njit(cache=True, _nrt=False)
def _start(jobs, stages, pools, executors, meta, rows, durations, log, e, number):
    """An idle executor that is at the job goes to work on a stage."""
    finish_ms = _begin_task(jobs, stages, executors, meta, rows, durations, log, e, number)
    _to_pool(pools, executors[e], 1 + len(jobs) + number)
    executors[e].busy = 1
    push(executors, meta, e, finish_ms)


@njit(cache=True, _nrt=False)
def _to_pool(pools, executor, pool):
    if executor.pool >= 0:
        pools[executor.pool].size -= 1
    executor.pool = pool
    if pool >= 0:
        pools[pool].size += 1


@njit(cache=True, _nrt=False)
def _rest_pool(jobs, j):
    """The pool in which an idle executor of a job waits."""
    return COMMON_POOL if j < 0 or jobs[j].unstarted == 0 else 1 + j


@njit(cache=True, _nrt=False)
def _to_stage(jobs, stages, pools, executors, meta, links, rows, durations, log, e, number):
    executor = executors[e]
    if stages[number].remaining == 0:
        number = _backup(jobs, stages, executors, meta, links, executor.job)
        if number < 0:
            _to_pool(pools, executor, _rest_pool(jobs, executor.job))
            return
    stage = stages[number]
    if executor.job != stage.job:
        left = _pool_job(executor.pool, jobs, stages)
        if left >= 0:
            jobs[left].supply -= 1
        if executor.job >= 0:
            jobs[executor.job].local -= 1
        jobs[stage.job].supply += 1
        stage.moving_to += 1
        _to_pool(pools, executor, -1)
        executor.job, executor.stage, executor.target = -1, -1, number
        push(executors, meta, e, meta.now_ms + meta.moving_ms)
    elif stage.missing > 0:
        executor.stage = -1
        _to_pool(pools, executor, 1 + stage.job)
    else:
        _start(jobs, stages, pools, executors, meta, rows, durations, log, e, number)


@njit(cache=True, _nrt=False)
def _commit(jobs, stages, pools, commitments, meta, pool, count):
    """`count` executors of the source are promised to a stage's pool, or to the common pool."""
    source = pools[meta.source]
    entry = source.head
    while entry >= 0 and commitments[entry].target != pool:
        entry = commitments[entry].next
    if entry < 0:
        entry = meta.free
        meta.free = commitments[entry].next
        commitments[entry].target, commitments[entry].count, commitments[entry].next = pool, 0, -1
        if source.head < 0:
            source.head = entry
        else:
            commitments[source.tail].next = entry
        source.tail = entry
    commitments[entry].count += count
    source.committed += count
    if pool != COMMON_POOL:
        stage = stages[pool - 1 - len(jobs)]
        stage.committed_to += count
        if stage.job != _pool_job(meta.source, jobs, stages):
            jobs[stage.job].supply += count


@njit(cache=True, _nrt=False)
def fulfil(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log, e):
    """The executor follows the oldest commitment of its pool."""
    executor = executors[e]
    source = pools[executor.pool]
    first = source.head
    commitment = commitments[first]
    pool = commitment.target
    commitment.count -= 1
    source.committed -= 1
    if commitment.count == 0:
        source.head = commitment.next
        commitment.next = meta.free
        meta.free = first
    if pool == COMMON_POOL:
        _to_pool(pools, executor, _rest_pool(jobs, _pool_job(executor.pool, jobs, stages)))
        return
    number = pool - 1 - len(jobs)
    stage = stages[number]
    stage.committed_to -= 1
    if stage.job != _pool_job(executor.pool, jobs, stages):
        jobs[stage.job].supply -= 1
    _to_stage(jobs, stages, pools, executors, meta, links, rows, durations, log, e, number)


@njit(cache=True, _nrt=False)
def keep_working(jobs, stages, executors, meta, rows, durations, log, until_ms):
    """Events of the commonest kind, until another one is due: an executor finishes a task and takes the next of its stage.

    Nothing that is committed or to be handed out changes by them. No event at `until_ms` or later happens.
    """
    if meta.arrived < len(jobs):
        until_ms = min(until_ms, jobs[meta.arrived].arrival_ms)
    while meta.heap > 0 and executors[0].heap_ms < until_ms:
        e = executors[0].heap
        number = executors[e].stage
        if executors[e].target >= 0 or stages[number].remaining == 0:
            break
        meta.active_ms += meta.active * (executors[0].heap_ms - meta.now_ms)
        meta.now_ms = executors[0].heap_ms
        stages[number].unfinished -= 1
        finish_ms = _begin_task(jobs, stages, executors, meta, rows, durations, log, e, number)
        replace_first(executors, meta, finish_ms, meta.counter, e)
        meta.counter += 1


@njit(cache=True, _nrt=False)
def _finish_stage_task(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log, e):
    """A task is finished, and its stage has no other to start."""
    # The task ends.
    executor = executors[e]
    number = executor.stage
    stage = stages[number]
    j = stage.job
    job = jobs[j]
    stage.unfinished -= 1
    pop(executors, meta)
    executor.busy = 0
    # The stage may be complete with it, and then its children ready and its job complete.
    frontier = False
    if stage.unfinished == 0:
        job.incomplete -= 1
        for k in range(stage.first_child, stage.first_child + stage.children):
            child = stages[job.first + links[k]]
            child.missing -= 1
            frontier = frontier or child.missing == 0
        if job.incomplete == 0:
            job.completed_ms = meta.now_ms
            meta.active -= 1
            for other in range(len(executors)):
                if executors[other].pool == 1 + j:
                    _to_pool(pools, executors[other], COMMON_POOL)
    # The executor goes where it is committed to, else it rests.
    committed = pools[executor.pool].head >= 0
    if committed:
        fulfil(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log, e)
    else:
        executor.stage = -1
        # Whose executors are handed out next.
        if frontier:
            _to_pool(pools, executor, _rest_pool(jobs, j))
    if frontier:
        meta.source = 1 + j
    elif not committed:
        meta.source = 1 + len(jobs) + number


@njit(cache=True, _nrt=False)
def next_event(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log):
    # The earlier one of the next arrival and the first event of the heap.
    arrival = meta.arrived < len(jobs) and jobs[meta.arrived].stages > 0
    if arrival and meta.heap > 0:
        arrival = jobs[meta.arrived].arrival_ms <= executors[0].heap_ms
    time_ms = jobs[meta.arrived].arrival_ms if arrival else executors[0].heap_ms
    meta.active_ms += meta.active * (time_ms - meta.now_ms)
    meta.now_ms = time_ms
    # A job arrives.
    if arrival:
        meta.arrived += 1
        meta.active += 1
        if pools[COMMON_POOL].size > 0:
            meta.source = COMMON_POOL
        return
    # A task ends, or an executor arrives at its stage.
    e = executors[0].heap
    executor = executors[e]
    if executor.target < 0:
        _finish_stage_task(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log, e)
        return
    pop(executors, meta)
    number = executor.target
    stage = stages[number]
    executor.target = -1
    executor.job = stage.job
    jobs[stage.job].local += 1
    stage.moving_to -= 1
    _to_pool(pools, executor, 1 + stage.job)
    _to_stage(jobs, stages, pools, executors, meta, links, rows, durations, log, e, number)


@njit(cache=True, _nrt=False)
def committable(pools, meta):
    """Executors of the source that are not promised yet."""
    return pools[meta.source].size - pools[meta.source].committed if meta.source >= 0 else 0


@njit(cache=True, _nrt=False)
def _let_rest(jobs, stages, pools, executors, meta):
    """The idle executors of the source have nothing to do: they leave their stage, or the job where it is saturated."""
    source = meta.source
    meta.source = -1
    j = _pool_job(source, jobs, stages)
    if j < 0:
        return
    pool = _rest_pool(jobs, j)
    for e in range(len(executors)):
        if executors[e].pool == source and not executors[e].busy:
            _to_pool(pools, executors[e], pool)


@njit(cache=True, _nrt=False)
def all_done(jobs, meta):
    """True when every job has arrived and is complete."""
    return meta.active == 0 and (meta.arrived == len(jobs) or jobs[meta.arrived].stages == 0)


@njit(cache=True, _nrt=False)
def _wake(jobs, stages, pools, executors, meta, links):
    """Nothing runs or moves, nobody will arrive, and yet jobs wait: the policy has left all executors idle. Where the
    public simulator stops with an error, idle executors are handed out again, and this time they must be used."""
    meta.idling = 1
    for pool in range(1 + len(jobs)):
        if pools[pool].size > 0:
            meta.source = pool
            meta.schedulable = list_schedulable(jobs, stages, executors, meta, links, pool - 1)
            if meta.schedulable > 0:
                return
    meta.done = 1  # only in a graph with a circle, which `profiles.check` refuses


@njit(cache=True, _nrt=False)
def advance(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log):
    """Advance until executors can be handed out, or all jobs are complete."""
    meta = metas[0]
    meta.schedulable = 0
    while meta.schedulable == 0 and not meta.done:
        if meta.heap == 0 and (meta.arrived == len(jobs) or jobs[meta.arrived].stages == 0):
            _wake(jobs, stages, pools, executors, meta, links)
            break
        keep_working(jobs, stages, executors, meta, rows, durations, log, np.inf)
        next_event(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log)
        if committable(pools, meta) > 0:
            source_job = _pool_job(meta.source, jobs, stages)
            meta.schedulable = list_schedulable(jobs, stages, executors, meta, links, source_job)
            if meta.schedulable == 0:
                _let_rest(jobs, stages, pools, executors, meta)
        if all_done(jobs, meta):
            meta.done = 1
            meta.schedulable = 0


@njit(cache=True, _nrt=False)
def _standing_in(pool, jobs):
    """The pool, or the common one instead of that of a completed job, whose idle executors have gone there."""
    return COMMON_POOL if COMMON_POOL < pool <= len(jobs) and jobs[pool - 1].incomplete == 0 else pool


@njit(cache=True, _nrt=False)
def _hand_out_waiting(jobs, stages, pools, executors, commitments, meta, links):
    """Open the round of the first pool that became due during a wait and has executors to hand out; False without."""
    while meta.waiting > 0:
        meta.source = _standing_in(commitments[0].waiting, jobs)
        meta.waiting -= 1
        for k in range(meta.waiting):
            commitments[k].waiting = commitments[k + 1].waiting
        if committable(pools, meta) > 0:
            source_job = _pool_job(meta.source, jobs, stages)
            meta.schedulable = list_schedulable(jobs, stages, executors, meta, links, source_job)
            if meta.schedulable > 0:
                return True
            _let_rest(jobs, stages, pools, executors, meta)
    meta.source = -1
    return False


@njit(cache=True, _nrt=False)
def decide(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log, index, count):
    """One decision: `count` executors for the stage at `index` of the schedulable list, or everything left for the common
    pool (-1). Returns the reward: at the end of a round minus the job-milliseconds until the next one, else 0; those that
    were waited (waiting.py) are taken off too."""
    meta = metas[0]
    meta.decisions += 1
    meta.taken_job = meta.taken_stage = -1
    meta.taken_executors = 0
    # What has changed in the time that the decision took.
    owed_ms = meta.owed_ms
    if meta.waited:
        meta.waited = 0
        meta.owed_ms = 0.0
        if all_done(jobs, meta):
            meta.done = 1
            meta.schedulable = 0
            return 0.0 - owed_ms
        meta.source = _standing_in(meta.source, jobs)
        count = min(count, committable(pools, meta))
    # Commit the executors that were chosen for the stage; after a wait it may have nothing left to start.
    if index < 0 and meta.idling:
        index, count = 0, committable(pools, meta)
    if index >= 0:
        number = stages[index].listed
        stage = stages[number]
        taken = min(count, _demand(stage))
        if taken > 0:
            meta.taken_executors = taken
            meta.taken_job, meta.taken_stage = stage.job, number - jobs[stage.job].first
            stage.chosen = meta.round
            _commit(jobs, stages, pools, commitments, meta, 1 + len(jobs) + number, taken)
        if committable(pools, meta) > 0:
            source_job = _pool_job(meta.source, jobs, stages)
            meta.schedulable = list_schedulable(jobs, stages, executors, meta, links, source_job)
            if meta.schedulable > 0:
                return 0.0 - owed_ms
    # The round ends: what is left goes to the common pool, and commitments are fulfilled.
    left = committable(pools, meta)
    if left > 0:
        _commit(jobs, stages, pools, commitments, meta, COMMON_POOL, left)
    source = meta.source
    for e in range(len(executors)):
        if executors[e].pool == source and not executors[e].busy and pools[source].head >= 0:
            fulfil(jobs, stages, pools, executors, commitments, meta, links, rows, durations, log, e)
    # Play on to the next decision.
    meta.source = -1
    meta.idling = 0
    meta.round += 1
    before = meta.active_ms
    if meta.waiting == 0 or not _hand_out_waiting(jobs, stages, pools, executors, commitments, meta, links):
        advance(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log)
    return before - meta.active_ms - owed_ms


@njit(cache=True, _nrt=False)
def start_all(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log):
    """Advance every episode to its first decision."""
    for n in range(len(metas)):
        advance(
            jobs[n], stages[n], pools[n], executors[n], commitments[n], metas[n : n + 1], links, rows, durations, log
        )
