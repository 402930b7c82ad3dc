"""One sender on one link, as fluids: what is sent above the link's bandwidth waits in a queue, and above that is lost.

Observations, of E episodes, each (E,): `rate_mbps` as chosen, `delivered_mbps`, `delay_s` of the queue and `lost`, a fraction
of what was sent, all of the last interval. An action is an index of MULTIPLIERS, by which the rate changes.
"""

import numpy as np

from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.randomness import uniform
from edgenetllm.tasks.task import Array, Observation

MULTIPLIERS = np.array([0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 2.0])
INTERVAL_S = 0.5
FIRST_MBPS, SLOWEST_MBPS, FASTEST_MBPS = 1.0, 0.1, 100.0
QUEUE_MBIT = 0.5  # that fit into the queue


def bandwidth(trace: Trace) -> Array:
    """Mean Mbps of each interval of a trace, (intervals,)."""
    megabits = np.append(0.0, np.cumsum(trace.mbps[1:] * np.diff(trace.time_s)))
    edges = np.arange(trace.time_s[0], trace.time_s[-1] + 1e-9, INTERVAL_S)
    return np.diff(np.interp(edges, trace.time_s, megabits)) / INTERVAL_S


class Link:
    """Episodes of `steps` intervals. With `random_start` a seed draws trace and start, else it is the number of a trace."""

    def __init__(self, traces: list[Trace], steps: int, penalties: tuple[float, float], random_start: bool) -> None:
        self.links = [bandwidth(trace) for trace in traces]
        self.steps, self.random_start = steps, random_start
        self.delay_penalty, self.loss_penalty = penalties

    def reset(self, seeds: Array) -> Observation:
        number, offset = seeds, np.zeros(len(seeds))
        if self.random_start:
            number, offset = (uniform(seeds, 0) * len(self.links)).astype(int), uniform(seeds, 1)
        window = np.arange(self.steps)
        starts = [int(fraction * len(self.links[n])) for fraction, n in zip(offset, number, strict=True)]
        self.mbps = np.stack([self.links[n].take(s + window, mode="wrap") for n, s in zip(number, starts, strict=True)])
        self.step_number, self.queue_mbit, zeros = 0, np.zeros(len(seeds)), np.zeros(len(seeds))
        self.seen = {"rate_mbps": zeros + FIRST_MBPS, "delivered_mbps": zeros, "delay_s": zeros, "lost": zeros}
        return dict(self.seen)

    def step(self, actions: Array) -> tuple[Observation, Array, Array]:
        done = np.full(len(actions), self.step_number + 1 >= self.steps)
        if self.step_number == self.steps:
            return dict(self.seen), np.zeros(len(actions)), done
        rate = np.clip(self.seen["rate_mbps"] * MULTIPLIERS[actions], SLOWEST_MBPS, FASTEST_MBPS)
        self.available = np.maximum(self.mbps[:, self.step_number], SLOWEST_MBPS)
        waiting = self.queue_mbit + rate * INTERVAL_S
        served = np.minimum(waiting, self.available * INTERVAL_S)
        self.queue_mbit = np.minimum(waiting - served, QUEUE_MBIT)
        lost = (waiting - served - self.queue_mbit) / (rate * INTERVAL_S)
        delay_s = self.queue_mbit / self.available
        self.seen = {"rate_mbps": rate, "delivered_mbps": served / INTERVAL_S, "delay_s": delay_s, "lost": lost}
        used = self.seen["delivered_mbps"] / self.available
        reward = used - self.delay_penalty * delay_s - self.loss_penalty * lost
        self.step_number += 1
        return dict(self.seen), reward, done

    def sample(self, rng: np.random.Generator) -> Array:
        return rng.integers(0, len(MULTIPLIERS), len(self.queue_mbit))

    def record(self) -> dict[str, Array]:
        return {**self.seen, "available_mbps": self.available}
