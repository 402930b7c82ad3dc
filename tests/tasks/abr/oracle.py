"""The streaming session in plain Python, obvious and slow: what the compiled simulator is checked against."""

import math
from dataclasses import dataclass


@dataclass
class Link:
    """A trace that is being read: in row i the bandwidth is mbps[i], from the end of row i - 1 until time_s[i]."""

    time_s: list
    mbps: list
    row: int
    clock_s: float

    def left_s(self):
        return self.time_s[self.row] - self.clock_s

    def next_row(self):
        self.clock_s = self.time_s[self.row]
        self.row += 1
        if self.row == len(self.time_s):
            self.row, self.clock_s = 1, 0.0

    def download(self, size):
        """Seconds until `size` bytes have arrived."""
        arrived, seconds = 0.0, 0.0
        while True:
            bytes_per_s = self.mbps[self.row] * 1e6 / 8
            payload = bytes_per_s * self.left_s() * 0.95
            if arrived + payload > size:
                last = (size - arrived) / bytes_per_s / 0.95
                self.clock_s += last
                return seconds + last
            arrived += payload
            seconds += self.left_s()
            self.next_row()

    def sleep(self, milliseconds):
        """Let time pass; what the public environment reports afterwards: the part slept in the last row."""
        while self.left_s() <= milliseconds / 1000:
            milliseconds -= self.left_s() * 1000
            self.next_row()
        self.clock_s += milliseconds / 1000
        return milliseconds


def play(time_s, mbps, sizes, actions, start, chunk_s=4, real=False, waits=None):
    """Rows of (delay_ms, sleep_ms, buffer_s, rebuffer_s, chunk_bytes), one per chunk.

    `real`: the round trip moves the trace's clock, before the download. `waits`: seconds before each chunk is asked for.
    """
    link = Link(list(time_s), list(mbps), start, time_s[start - 1])
    buffer_ms = 0.0
    rows = []
    for chunk, level in enumerate(actions):
        size = sizes[level][chunk]
        waited_ms = 1000 * waits[chunk] if waits is not None else 0.0
        if waited_ms:
            link.sleep(waited_ms)
        stall_ms = max(waited_ms - buffer_ms, 0.0)
        buffer_ms = max(buffer_ms - waited_ms, 0.0)
        if real:
            link.sleep(80)
        delay_ms = link.download(size) * 1000 + 80
        rebuffer_ms = stall_ms + max(delay_ms - buffer_ms, 0.0)
        buffer_ms = max(buffer_ms - delay_ms, 0.0) + chunk_s * 1000
        sleep_ms = 0.0
        if buffer_ms > 60_000:
            sleep_ms = math.ceil((buffer_ms - 60_000) / 500) * 500.0
            buffer_ms -= sleep_ms
            sleep_ms = link.sleep(sleep_ms)
        rows.append((delay_ms, sleep_ms, buffer_ms / 1000, rebuffer_ms / 1000, size))
    return rows
