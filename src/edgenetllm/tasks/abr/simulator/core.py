"""The streaming simulator: Pensieve's chunk-level model, compiled, equal to the public environment to 1e-9.

Matches the fixed mode of `baseline_special/env.py` in github.com/duowuyms/NetLLM (the same in Genet and Pensieve):

- the bandwidth of row i holds on (t[i-1], t[i]]; that of row 0 is never used
- a chunk that starts inside a row uses what is left of it; of the bytes sent, 95 % are payload
- delay = download time + 80 ms; the round trip does not move the clock of the trace, unless the clock is `real`
- a buffer above 60 s sleeps in multiples of 500 ms, which do move the clock
- after the last row the trace starts again at row 1 and time 0

With `clock="real"` the trace's clock moves by all the time that passes: the round trip comes before the download, and the
noise of training scales round trip and bytes, which is the delay where the bandwidth is constant. `wait_many` lets the time
of a decision pass, under either clock.

Two levels: `play` plays one episode with known actions; `step_many` advances many episodes by one chunk, in place, on flat
arrays (the vectorised environment). Both run the same compiled `_chunk`.

Every call ends, whatever the arrays hold: after `PATIENCE` rows the turns of the trace that are still needed are taken at
once (turns.py), and a chunk that no number of turns carries has an infinite download time, which is an error.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.compiled import njit
from edgenetllm.tasks.abr.data.ladder import PUBLIC
from edgenetllm.tasks.abr.protocol import PAYLOAD_SHARE
from edgenetllm.tasks.abr.simulator.turns import PATIENCE, download_turns, sleep_turns

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Clock = Literal["public", "real"]
CHUNK_S = PUBLIC.chunk_s  # seconds of video in a chunk, where nothing else is given
LINK_RTT_MS = 80.0
BUFFER_LIMIT_MS = 60_000.0
SLEEP_STEP_MS = 500.0


class Chunks(NamedTuple):
    """Figures of every chunk played, shape (chunks,)."""

    delay_ms: FloatArray  # download and round trip
    sleep_ms: FloatArray  # as the public environment returns it: what is left of the sleep after its drain loop
    buffer_s: FloatArray  # video in the buffer after the chunk has arrived (and after the sleep)
    rebuffer_s: FloatArray  # playback stood still
    chunk_bytes: IntArray


class Playback(NamedTuple):
    """State of many episodes at once, each array (episodes,); `step_many` changes it in place."""

    first: IntArray  # index of the trace's row 0 in the concatenated traces
    rows: IntArray  # rows of the trace
    row: IntArray  # the row whose bandwidth holds now, counted from `first`
    clock_s: FloatArray  # time inside the trace
    buffer_ms: FloatArray
    chunk: IntArray  # index of the next chunk to download


class Arrivals(NamedTuple):
    """The record that `step_many` writes about the chunk just played, each array (episodes,)."""

    delay_ms: FloatArray
    sleep_ms: FloatArray  # the true sleep, unlike `Chunks.sleep_ms`
    rebuffer_s: FloatArray
    download_s: FloatArray  # without round trip and noise


@njit(cache=True, error_model="numpy", inline="always")
def _download(time_s, mbps, first, rows, row, clock, size):  # type: ignore[no-untyped-def]
    """Carry `size` bytes: (row, clock, seconds taken), infinite seconds where the trace never carries them."""
    sent = 0.0
    taken = 0.0
    passed = 0  # rows, in whole turns
    while True:
        speed = mbps[first + row] * 1e6 / 8.0  # bytes per second
        duration = time_s[first + row] - clock
        payload = speed * duration * PAYLOAD_SHARE
        if sent + payload > size:
            rest_s = (size - sent) / speed / PAYLOAD_SHARE
            return row, clock + rest_s, taken + rest_s
        sent += payload
        taken += duration
        clock = time_s[first + row]
        row += 1
        if row >= rows:
            row = 1
            clock = 0.0
            passed += rows
            if passed > PATIENCE:
                row, clock, rest_s = download_turns(time_s, mbps, first, rows, size - sent)
                return row, clock, taken + rest_s


@njit(cache=True, error_model="numpy", inline="always")
def _sleep(time_s, first, rows, row, clock, sleep_ms):  # type: ignore[no-untyped-def]
    """Move the clock by `sleep_ms`: (row, clock, what is left of the sleep in the last row)."""
    left = sleep_ms
    passed = 0  # rows, in whole turns
    while True:
        duration = time_s[first + row] - clock
        if duration > left / 1000.0:
            return row, clock + left / 1000.0, left
        left -= duration * 1000.0
        clock = time_s[first + row]
        row += 1
        if row >= rows:
            row = 1
            clock = 0.0
            passed += rows
            if passed > PATIENCE:
                return sleep_turns(time_s, first, rows, left)


@njit(cache=True, error_model="numpy", inline="always")
def _chunk(time_s, mbps, first, rows, row, clock, buffer_ms, size, noise, chunk_ms, real):  # type: ignore[no-untyped-def]
    """One chunk of one episode: (row, clock, buffer_ms, delay_ms, rebuffer_ms, slept_ms, sleep_left_ms, download_s)."""
    if real:
        row, clock, left = _sleep(time_s, first, rows, row, clock, LINK_RTT_MS * noise)
        row, clock, download = _download(time_s, mbps, first, rows, row, clock, size * noise)
        delay = download * 1000.0 + LINK_RTT_MS * noise
        download /= noise
    else:
        row, clock, download = _download(time_s, mbps, first, rows, row, clock, size)
        delay = (download * 1000.0 + LINK_RTT_MS) * noise
    rebuffer = max(delay - buffer_ms, 0.0)
    buffer_ms = max(buffer_ms - delay, 0.0) + chunk_ms
    slept = 0.0
    left = 0.0
    if buffer_ms > BUFFER_LIMIT_MS:
        slept = np.ceil((buffer_ms - BUFFER_LIMIT_MS) / SLEEP_STEP_MS) * SLEEP_STEP_MS
        buffer_ms -= slept
        row, clock, left = _sleep(time_s, first, rows, row, clock, slept)
    return row, clock, buffer_ms, delay, rebuffer, slept, left, download


@njit(cache=True, error_model="numpy", _nrt=False)
def _play(time_s, mbps, sizes, actions, start, chunk_ms, real, delay_ms, sleep_ms, buffer_s, rebuffer_s, chunk_bytes):  # type: ignore[no-untyped-def]
    row = start
    clock = time_s[start - 1]
    buffer = 0.0
    for chunk in range(len(actions)):
        size = sizes[actions[chunk], chunk]
        row, clock, buffer, delay, rebuffer, _, left, _ = _chunk(
            time_s, mbps, 0, len(time_s), row, clock, buffer, size, 1.0, chunk_ms, real
        )
        delay_ms[chunk] = delay
        sleep_ms[chunk] = left
        buffer_s[chunk] = buffer / 1000.0
        rebuffer_s[chunk] = rebuffer / 1000.0
        chunk_bytes[chunk] = size


def play(
    time_s: FloatArray,
    mbps: FloatArray,
    sizes: IntArray,
    actions: IntArray,
    start: int,
    chunk_s: float = CHUNK_S,
    clock: Clock = "public",
) -> Chunks:
    """Play the first `len(actions)` chunks of a video over a trace.

    time_s, mbps: the trace, (rows,) each. sizes: bytes, (levels, chunks). actions: quality per chunk, (chunks,), chunk 0
    included. start: the row in which playback starts, 1 <= start < rows. chunk_s: seconds of video in a chunk.
    Raises ValueError for arguments that do not fit together, and where a chunk would never arrive.
    """
    time_s = np.ascontiguousarray(time_s, np.float64)
    mbps = np.ascontiguousarray(mbps, np.float64)
    sizes = np.ascontiguousarray(sizes, np.int64)
    actions = np.ascontiguousarray(actions, np.int64)
    if time_s.shape != mbps.shape or time_s.ndim != 1:
        raise ValueError(f"time_s {time_s.shape} and mbps {mbps.shape} must be vectors of one length")
    if not 1 <= start < len(time_s):
        raise ValueError(f"start must lie in [1, {len(time_s)}), is {start}")
    if sizes.ndim != 2 or len(actions) > sizes.shape[1]:
        raise ValueError(
            f"{len(actions)} actions need a size table (levels, chunks) of as many chunks, not {sizes.shape}"
        )
    if len(actions) and not (actions.min() >= 0 and actions.max() < len(sizes)):
        raise ValueError(f"actions must lie in [0, {len(sizes)})")
    if not (mbps[1:] * np.diff(time_s) > 0).any():
        raise ValueError("the trace carries no data, so no chunk would ever arrive")
    n = len(actions)
    columns = Chunks(np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n, np.int64))
    _play(time_s, mbps, sizes, actions, start, chunk_s * 1000.0, clock == "real", *columns)
    if not np.isfinite(columns.delay_ms).all():
        raise ValueError("the trace carries too little data, so a chunk would never arrive")
    return columns


@njit(cache=True, error_model="numpy", nogil=True, _nrt=False)
def _step_many(time_s, mbps, size, noise, alive, chunk_ms, real, state, out):  # type: ignore[no-untyped-def]
    """Change `state` and `out`; returns an episode whose chunk never arrives, or -1."""
    stuck = -1
    for e in range(len(size)):
        if not alive[e]:
            continue
        row, clock, buffer, delay, rebuffer, slept, _, download = _chunk(
            time_s,
            mbps,
            state.first[e],
            state.rows[e],
            state.row[e],
            state.clock_s[e],
            state.buffer_ms[e],
            size[e],
            noise[e],
            chunk_ms,
            real,
        )
        state.row[e] = row
        state.clock_s[e] = clock
        state.buffer_ms[e] = buffer
        state.chunk[e] += 1
        if not delay < np.inf:
            stuck = e
        out.delay_ms[e] = delay
        out.sleep_ms[e] = slept
        out.rebuffer_s[e] = rebuffer / 1000.0
        out.download_s[e] = download
    return stuck


def step_many(
    time_s: FloatArray,
    mbps: FloatArray,
    size: IntArray,
    noise: FloatArray,
    alive: npt.NDArray[np.bool_],
    state: Playback,
    out: Arrivals,
    chunk_s: float = CHUNK_S,
    clock: Clock = "public",
) -> None:
    """One chunk in every episode that is `alive`; `state` and `out` are changed in place.

    time_s, mbps: all traces, one after another. size (bytes of the chunk), noise (a factor on the delay), alive: (episodes,).
    Raises ValueError where a chunk would never arrive.
    """
    stuck = _step_many(time_s, mbps, size, noise, alive, chunk_s * 1000.0, clock == "real", state, out)
    if stuck >= 0:
        raise ValueError(f"episode {stuck}: its trace carries too little data, so its chunk would never arrive")


@njit(cache=True, error_model="numpy", nogil=True, _nrt=False)
def _wait_many(time_s, wait_ms, alive, state, stall_ms):  # type: ignore[no-untyped-def]
    for e in range(len(wait_ms)):
        if not alive[e]:
            continue
        row, clock, _ = _sleep(time_s, state.first[e], state.rows[e], state.row[e], state.clock_s[e], wait_ms[e])
        state.row[e] = row
        state.clock_s[e] = clock
        stall_ms[e] += max(wait_ms[e] - state.buffer_ms[e], 0.0)
        state.buffer_ms[e] = max(state.buffer_ms[e] - wait_ms[e], 0.0)


def wait_many(
    time_s: FloatArray, wait_ms: FloatArray, alive: npt.NDArray[np.bool_], state: Playback, stall_ms: FloatArray
) -> None:
    """Let time pass in which nothing is downloaded: the trace's clock moves and the buffer drains, in place.

    `wait_ms` (episodes,); the time in which the buffer was empty is added to `stall_ms` (episodes,).
    """
    _wait_many(time_s, wait_ms, alive, state, stall_ms)
