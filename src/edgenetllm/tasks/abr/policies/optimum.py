"""The offline optimum: the best that any policy can do on a trace that it knows from beginning to end.

Exact dynamic programming over labels. A label is a way to have played the first chunks: the time `T` that has passed on the
trace, the deadline `D` = T + buffer at which playback would stop, the reward `V` so far, the last quality `u`. A label that
cannot lead to more than another one is dropped: A dominates B when

    T_A <= T_B   and   V_A - penalty * max(0, D_B - D_A) - switch * |u_A - u_B| >= V_B - SLACK

because a chunk asked for earlier never arrives later (under either clock, see core.py), because a buffer shorter by d seconds
costs no more than a stall of d seconds, and because a change of quality obeys the triangle inequality.

That argument needs two liberties, and both only help: the sleep at a full buffer lasts as long as it must (the simulator's
lasts a multiple of half a second), and a buffer may be thrown away. So the best label plus the slack is an upper bound of the
real problem; its actions, played in the simulator itself, are a lower one. On the 200 public test traces and videos the two
differ by 0.0002 in all but one (0.003), and the lower one is the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgenetllm.tasks.abr.compiled import njit
from edgenetllm.tasks.abr.simulator.core import (
    BUFFER_LIMIT_MS,
    CHUNK_S,
    LINK_RTT_MS,
    Clock,
    FloatArray,
    IntArray,
    _download,
    _sleep,
    play,
)
from edgenetllm.tasks.abr.simulator.qoe import FORMS, QoE

SLACK = 2e-4  # of reward, per chunk
FIRST_LEVEL = 0  # of chunk 0, which is not a decision (environment.py)


@dataclass(frozen=True)
class Optimum:
    """Mean rewards per chunk without chunk 0. `actions` (chunks,), chunk 0 included, earn exactly `mean_reward`."""

    mean_reward: float  # the optimum lies between this ...
    upper_bound: float  # ... and this
    actions: IntArray


def solve(
    time_s: FloatArray,
    mbps: FloatArray,
    sizes: IntArray,
    start: int,
    qoe: QoE = FORMS["lin"],
    chunk_s: float = CHUNK_S,
    clock: Clock = "public",
) -> Optimum:
    """The best for a trace (rows,) and a video (levels, chunks) in bytes; arguments as in `simulator.play`.

    Raises ValueError as `simulator.play` does.
    """
    # Chunk 0 has a fixed quality: one label after it.
    chunks = sizes.shape[1]
    actions = np.full(chunks, FIRST_LEVEL, np.int64)
    first = play(time_s, mbps, sizes, actions[:1], start, chunk_s, clock)  # also checks the arguments
    time_s, mbps = np.ascontiguousarray(time_s, np.float64), np.ascontiguousarray(mbps, np.float64)
    real = clock == "real"
    row, now, rtt_s = start, time_s[start - 1], LINK_RTT_MS / 1000
    if real:
        row, now, _ = _sleep(time_s, 0, len(time_s), row, now, LINK_RTT_MS)
    row, now, _ = _download(time_s, mbps, 0, len(time_s), row, now, sizes[FIRST_LEVEL, 0])
    taken = first.delay_ms[0] / 1000 - (0.0 if real else rtt_s)
    labels = np.array([(row, now, taken, first.buffer_s[0], 0.0, FIRST_LEVEL, 0)], LABEL)
    # Chunk by chunk: extend every label by every quality and drop the dominated ones.
    history = []
    for chunk in range(1, chunks):
        weights = (qoe.quality, qoe.rebuffer_penalty, qoe.switch_penalty)
        grown = _grow(time_s, mbps, sizes[:, chunk].astype(np.float64), labels, *weights, chunk_s, real)
        labels = _undominated(grown, np.argsort(grown["time"]), *weights, SLACK)
        history.append((labels["level"].copy(), labels["parent"].copy()))
    # Trace the best label back to its actions, and play them.
    best = int(np.argmax(labels["value"]))
    bound = float(labels["value"][best]) + SLACK * (chunks - 1)
    for chunk in range(chunks - 1, 0, -1):
        level, parent = history[chunk - 1]
        actions[chunk], best = level[best], parent[best]
    played = play(time_s, mbps, sizes, actions, start, chunk_s, clock)
    reward = qoe.reward(actions[1:], actions[:-1], played.rebuffer_s[1:])
    return Optimum(float(reward.mean()), max(bound / (chunks - 1), float(reward.mean())), actions)


LABEL = np.dtype(
    [
        ("row", np.int64),  # of the trace
        ("clock", np.float64),  # inside the trace, s
        ("time", np.float64),  # that the trace's clock has moved since playback began, s
        ("buffer", np.float64),  # s
        ("value", np.float64),  # sum of rewards
        ("level", np.int64),  # last quality
        ("parent", np.int64),  # the label of the chunk before
    ]
)


@njit(cache=True, error_model="numpy")
def _grow(time_s, mbps, sizes, labels, quality, penalty, switch, chunk_s, real):  # type: ignore[no-untyped-def]
    """Every label followed by every quality, as (labels * levels,) new labels."""
    rows, levels = len(time_s), len(sizes)
    grown = np.empty(len(labels) * levels, labels.dtype)
    for i in range(len(labels)):
        old = labels[i]
        for level in range(levels):
            row, clock = old.row, old.clock
            if real:
                row, clock, _ = _sleep(time_s, 0, rows, row, clock, LINK_RTT_MS)
            row, clock, taken = _download(time_s, mbps, 0, rows, row, clock, sizes[level])
            delay = taken + LINK_RTT_MS / 1000.0
            stall = max(delay - old.buffer, 0.0)
            buffer = max(old.buffer - delay, 0.0) + chunk_s
            sleep = max(buffer - BUFFER_LIMIT_MS / 1000.0, 0.0)
            if sleep > 0:
                row, clock, _ = _sleep(time_s, 0, rows, row, clock, sleep * 1000.0)
            new = grown[i * levels + level]
            moved = (delay if real else taken) + sleep
            new.row, new.clock, new.time, new.buffer = row, clock, old.time + moved, buffer - sleep
            new.value = old.value + quality[level] - penalty * stall - switch * abs(quality[level] - quality[old.level])
            new.level, new.parent = level, i
    return grown


@njit(cache=True, error_model="numpy")
def _undominated(labels, order, quality, penalty, switch, slack):  # type: ignore[no-untyped-def]
    """The labels, in the `order` of their times, that no kept label before them dominates.

    Of the kept labels of each quality, those that matter stand in a front sorted by deadline: there `value` falls and
    `value + penalty * deadline` rises, so that a binary search finds the only two that can dominate.
    """
    # The front of each quality: deadlines, values and how many.
    levels = len(quality)
    deadline = np.empty((levels, len(labels)))
    value = np.empty((levels, len(labels)))
    size = np.zeros(levels, np.int64)
    survivors = np.empty(len(labels), labels.dtype)
    count = 0
    for i in order:
        # Does a label of any front dominate this one?
        d, v, own = labels[i].time + labels[i].buffer, labels[i].value, labels[i].level
        dominated = False
        for level in range(levels):
            n = size[level]
            at = np.searchsorted(deadline[level, :n], d)  # the first with a deadline that is as late
            threshold = v - slack + switch * abs(quality[level] - quality[own])
            if at < n and value[level, at] >= threshold:
                dominated = True
                break
            if at > 0 and value[level, at - 1] - penalty * (d - deadline[level, at - 1]) >= threshold:
                dominated = True
                break
        if dominated:
            continue
        # It does not: the label stays, and replaces those in its own front that it makes useless.
        survivors[count] = labels[i]
        count += 1
        n = size[own]
        at = np.searchsorted(deadline[own, :n], d)
        left = at  # those before `at` with no more value have become useless, as have those behind it that it outweighs
        while left > 0 and value[own, left - 1] <= v:
            left -= 1
        right = at
        while right < n and v - penalty * (deadline[own, right] - d) >= value[own, right]:
            right += 1
        moved = n - right
        for j in range(moved) if left + 1 <= right else range(moved - 1, -1, -1):
            deadline[own, left + 1 + j] = deadline[own, right + j]
            value[own, left + 1 + j] = value[own, right + j]
        deadline[own, left], value[own, left] = d, v
        size[own] = left + 1 + moved
    return survivors[:count].copy()
