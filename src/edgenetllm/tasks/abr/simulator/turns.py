"""Whole turns of a trace at once, compiled: what is left of a download or a sleep that goes round the trace very often.

The simulator goes row by row, as the public environment does, and calls these functions only after `PATIENCE` rows. No
download over a recorded trace comes near that: a public trace has at most 10,000 rows and carries a chunk within a few turns.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.abr.compiled import njit
from edgenetllm.tasks.abr.protocol import PAYLOAD_SHARE

PATIENCE = 100_000  # rows that are passed one by one; about a tenth of a millisecond
MOST_TURNS = 2.0**53  # beyond it a count of turns is no exact number any more


@njit(cache=True, error_model="numpy", _nrt=False)
def download_turns(time_s, mbps, first, rows, size):
    """Carry `size` bytes from the beginning of a turn on: (row, clock, seconds); infinite seconds if that never ends."""
    # What a whole turn carries.
    payload = 0.0
    clock = 0.0
    for row in range(1, rows):
        payload += mbps[first + row] * 1e6 / 8.0 * (time_s[first + row] - clock) * PAYLOAD_SHARE
        clock = time_s[first + row]
    turns = np.floor(size / payload)
    if not (payload > 0.0 and turns < MOST_TURNS):
        return 1, 0.0, np.inf
    # The last turn row by row; a second one where rounding wants it.
    left = max(size - turns * payload, 0.0)
    taken = turns * clock
    sent = 0.0
    for _ in range(2):
        clock = 0.0
        for row in range(1, rows):
            speed = mbps[first + row] * 1e6 / 8.0
            duration = time_s[first + row] - clock
            if sent + speed * duration * PAYLOAD_SHARE > left:
                rest_s = (left - sent) / speed / PAYLOAD_SHARE
                return row, clock + rest_s, taken + rest_s
            sent += speed * duration * PAYLOAD_SHARE
            taken += duration
            clock = time_s[first + row]
    return 1, 0.0, np.inf


@njit(cache=True, error_model="numpy", _nrt=False)
def sleep_turns(time_s, first, rows, sleep_ms):
    """Sleep from the beginning of a turn on: (row, clock, what is left of the sleep in the last row).

    On a trace of no length, and for an endless sleep, the clock stays at the beginning.
    """
    seconds = time_s[first + rows - 1]
    turns = np.floor(sleep_ms / 1000.0 / seconds)
    if not (seconds > 0.0 and turns < MOST_TURNS):
        return 1, 0.0, sleep_ms
    left = max(sleep_ms - turns * seconds * 1000.0, 0.0)
    clock = 0.0
    for row in range(1, rows):
        duration = time_s[first + row] - clock
        if duration > left / 1000.0:
            return row, clock + left / 1000.0, left
        left -= duration * 1000.0
        clock = time_s[first + row]
    return 1, 0.0, 0.0
