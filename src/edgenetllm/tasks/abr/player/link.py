"""The link of a session: the bytes that a recorded trace carries, by the time since the session's start.

The trace is read as the simulator reads it (`simulator/core.py`): the bandwidth of row i holds on (t[i-1], t[i]], 95 % of the
bytes are payload, and after the last row the trace starts again at row 1 and time 0.
"""

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.abr.protocol import PAYLOAD_SHARE
from edgenetllm.tasks.abr.simulator.core import FloatArray


class Link:
    """A trace (rows,) from the time of the row before `start` on. Raises ValueError for one that carries nothing."""

    def __init__(self, time_s: FloatArray, mbps: FloatArray, start: int) -> None:
        rate = np.asarray(mbps, np.float64) * 1e6 / 8 * PAYLOAD_SHARE
        whole = np.asarray(time_s[1:], np.float64) - np.r_[0.0, time_s[1:-1]]
        first = np.diff(time_s)[start - 1 :]
        # Time and payload at the end of each row: what is left of the trace when the session starts, and a whole turn.
        self._first = _sums(first), _sums(first * rate[start:])
        self._turn = _sums(whole), _sums(whole * rate[1:])
        if self._turn[1][-1] <= 0:
            raise ValueError("the trace carries no data, so no chunk would ever arrive")

    def carried(self, time_s: float) -> float:
        """Bytes of payload that the trace carries within `time_s` seconds from the start."""
        times, payload = self._first
        if time_s <= times[-1]:
            return float(np.interp(time_s, times, payload))
        turns, left = divmod(time_s - times[-1], self._turn[0][-1])
        return float(payload[-1] + turns * self._turn[1][-1] + np.interp(left, *self._turn))

    def arrival(self, begin_s: float, size: int) -> float:
        """The time at which a download of `size` bytes that begins at `begin_s` is complete; seconds since the start."""
        (times, payload), wanted = self._first, self.carried(begin_s) + size
        if wanted <= payload[-1]:
            return _inverse(times, payload, wanted)
        turns, left = divmod(wanted - payload[-1], self._turn[1][-1])
        return float(times[-1] + turns * self._turn[0][-1] + _inverse(*self._turn, left))

    def mbps_until(self, end_s: float, step_s: float = 1.0) -> list[float]:
        """The bandwidth in Mbps, mean over each `step_s` seconds from the start, for a chart."""
        bytes_at = np.array([self.carried(time) for time in np.arange(0, end_s + step_s, step_s)])
        return [float(mbps) for mbps in np.diff(bytes_at) * 8 / 1e6 / PAYLOAD_SHARE / step_s]


def _sums(values: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros(1), np.cumsum(values)])


def _inverse(times: FloatArray, payload: FloatArray, wanted: float) -> float:
    """The first time at which `wanted` bytes are carried, also where no bandwidth makes the sums stand still."""
    row = max(int(np.searchsorted(payload, wanted, side="left")), 1)
    row = min(row, len(payload) - 1)
    span = payload[row] - payload[row - 1]
    fraction = (wanted - payload[row - 1]) / span if span > 0 else 0.0
    return float(times[row - 1] + fraction * (times[row] - times[row - 1]))
