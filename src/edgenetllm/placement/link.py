"""A link between edge and cloud: the time that a message needs over recorded bandwidth, with round trip and loss.

A message of `size` bytes, with the bytes of its headers, takes one way

    carry + round trip / 2 + (round trip + timeout) * (2^(attempts - 1) - 1)

where `carry` is the time in which the trace, read from where it stands, carries the bytes, and `attempts` how often the
unluckiest of its packets is sent: each is lost with probability `loss`, which is noticed after a round trip and a timeout,
which double each time, as TCP's timeout does (RFC 6298). Links of all episodes are independent; a seed fixes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.randomness import mix, uniform

Floats = npt.NDArray[np.float64]

PACKET_BYTES = 1460  # of a message in one packet: an Ethernet frame less the headers of IP and TCP
# Counters of an episode's random numbers; the messages of decision n are MESSAGE + 2 n (up) and MESSAGE + 2 n + 1 (down).
TRACE_DRAW = 0
START_DRAW = 1
MESSAGE = 2


@dataclass(frozen=True, eq=False)
class LinkTrace:
    """A trace from time 0, which starts again at its end: seconds and the megabits carried until then, (rows,) each."""

    seconds: Floats
    megabits: Floats

    def carry_s(self, at_s: float, size: float) -> float:
        """Seconds from `at_s` on until `size` bytes are carried."""
        begin = at_s % self.seconds[-1]
        target = float(np.interp(begin, self.seconds, self.megabits)) + 8e-6 * size
        rounds, rest = divmod(target, self.megabits[-1])
        if rest == 0 and rounds > 0:  # the last bit of a round, which an outage at its end does not delay
            rounds, rest = rounds - 1, self.megabits[-1]
        row = max(1, int(np.searchsorted(self.megabits, rest)))  # the row in which the last bit is carried
        fraction = (rest - self.megabits[row - 1]) / (self.megabits[row] - self.megabits[row - 1] or 1.0)
        end = self.seconds[row - 1] + fraction * (self.seconds[row] - self.seconds[row - 1])
        return max(0.0, float(rounds * self.seconds[-1] + end - begin))

    def mbps_at(self, at_s: float) -> float:
        """The bandwidth of the row in which `at_s` lies."""
        row = int(np.searchsorted(self.seconds, at_s % self.seconds[-1], side="right"))
        return float((self.megabits[row] - self.megabits[row - 1]) / (self.seconds[row] - self.seconds[row - 1]))


def link_trace(trace: Trace, where: str) -> LinkTrace:
    """The trace as a link. Raises UserError, naming `where`, for one that carries nothing, over which no message arrives."""
    steps = np.diff(trace.time_s)
    megabits = np.concatenate([[0.0], np.cumsum(steps * trace.mbps[1:])])
    if megabits[-1] <= 0 or (steps <= 0).any():
        raise UserError(f"{where}: {trace.name} carries nothing, so that no message would ever arrive")
    return LinkTrace(trace.time_s - trace.time_s[0], megabits)


def attempts(loss: float, size: Floats, u: Floats) -> npt.NDArray[np.int64]:
    """How often the unluckiest packet of each message (episodes,) is sent, for uniform numbers `u` in [0, 1).

    The smallest k with (1 - loss^k)^packets > u, the distribution of the largest of so many geometric numbers.
    """
    if loss == 0:
        return np.ones(len(u), np.int64)
    packets = np.maximum(1, np.ceil(size / PACKET_BYTES))
    missing = -np.expm1(np.log(np.maximum(u, 1e-300)) / packets)  # 1 - u^(1 / packets)
    return np.maximum(1, np.floor(np.log(missing) / np.log(loss)).astype(np.int64) + 1)


class Link:
    """The link of each episode, with one round trip time; `start` chooses trace and place for the episodes of these seeds."""

    def __init__(
        self,
        traces: Sequence[LinkTrace],
        rtt_ms: float,
        *,
        loss: float = 0.0,
        rto_ms: float = 200.0,
        uplink: float = 1.0,
        overhead_bytes: int = 0,
        seed: int = 0,
    ) -> None:
        self.traces, self.rtt_s, self.loss, self.rto_s = traces, rtt_ms / 1000, loss, rto_ms / 1000
        self.uplink, self.overhead_bytes, self.seed = uplink, overhead_bytes, seed

    def start(self, seeds: npt.NDArray[np.int64]) -> None:
        """Episodes of these seeds begin, each at a place of a trace that its seed draws."""
        own = mix(np.array([self.seed], np.uint64))
        self.seeds = (mix(np.asarray(seeds, np.int64).view(np.uint64)) ^ own).view(np.int64)
        chosen = (uniform(self.seeds, TRACE_DRAW) * len(self.traces)).astype(np.int64)
        self.own = [self.traces[number] for number in chosen]
        lengths = np.array([trace.seconds[-1] for trace in self.own])
        self.begin_s: Floats = uniform(self.seeds, START_DRAW) * lengths

    def on_wire(self, size: Floats, up: bool) -> Floats:
        """Bytes with headers; upwards more, where the link carries less there."""
        return (size + self.overhead_bytes) / (self.uplink if up else 1.0)

    def message_s(self, at_s: Floats, size: Floats, step: int, *, up: bool) -> Floats:
        """Seconds that a message of `size` bytes takes one way when it is sent at `at_s`, all (episodes,).

        `at_s` counts from the episode's start; `step` is the decision, whose losses are the same over every link.
        """
        sent = self.on_wire(size, up)
        places = zip(self.own, self.begin_s + at_s, sent, strict=True)
        carry = np.array([trace.carry_s(now, bytes_) for trace, now, bytes_ in places])
        u = uniform(self.seeds, MESSAGE + 2 * step + (0 if up else 1))
        again = 2.0 ** (attempts(self.loss, size + self.overhead_bytes, u) - 1) - 1
        return np.asarray(carry + self.rtt_s / 2 + (self.rtt_s + self.rto_s) * again)

    def estimate_s(self, at_s: Floats, up: Floats, down: Floats) -> Floats:
        """Seconds of both messages if the bandwidth stays as it is now and nothing is lost, (episodes,)."""
        mbps = np.array([trace.mbps_at(now) for trace, now in zip(self.own, self.begin_s + at_s, strict=True)])
        with np.errstate(divide="ignore"):
            return np.asarray(self.rtt_s + 8e-6 * (self.on_wire(up, True) + self.on_wire(down, False)) / mbps)
