"""The heap of events, in the executors' own records: entry k of the heap lies in the record of executor k.

Earliest first; ties of time go to the event that was pushed first, as in the public simulator.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from edgenetllm.tasks.cjs.compiled import njit


@njit(cache=True, _nrt=False)
def _after(executors, place, time_ms, counter):
    """True where the event at `place` of the heap comes after the given one."""
    entry = executors[place]
    return entry.heap_ms > time_ms or (entry.heap_ms == time_ms and entry.heap_counter > counter)


@njit(cache=True, _nrt=False)
def _put(executors, place, time_ms, counter, e):
    entry = executors[place]
    entry.heap_ms, entry.heap_counter, entry.heap = time_ms, counter, e


@njit(cache=True, _nrt=False)
def push(executors, meta, e, time_ms):
    """An executor has at most one event to come, so that the heap is never longer than the cluster is large."""
    counter = meta.counter
    meta.counter += 1
    place = meta.heap
    meta.heap += 1
    while place > 0:
        above = (place - 1) >> 1
        if not _after(executors, above, time_ms, counter):
            break
        entry = executors[above]
        _put(executors, place, entry.heap_ms, entry.heap_counter, entry.heap)
        place = above
    _put(executors, place, time_ms, counter, e)


@njit(cache=True, _nrt=False)
def replace_first(executors, meta, time_ms, counter, e):
    """The earliest event has happened; this one takes its place in the heap and sinks."""
    place = 0
    below = 1
    while below < meta.heap:
        entry = executors[below]
        if below + 1 < meta.heap and _after(
            executors, below, executors[below + 1].heap_ms, executors[below + 1].heap_counter
        ):
            below += 1
            entry = executors[below]
        if _after(executors, below, time_ms, counter):
            break
        _put(executors, place, entry.heap_ms, entry.heap_counter, entry.heap)
        place = below
        below = 2 * place + 1
    _put(executors, place, time_ms, counter, e)


@njit(cache=True, _nrt=False)
def pop(executors, meta):
    meta.heap -= 1
    last = executors[meta.heap]
    replace_first(executors, meta, last.heap_ms, last.heap_counter, last.heap)
