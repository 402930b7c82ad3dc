"""Two classics of congestion control, as functions of what a sender sees."""

import numpy as np

from congestion.simulator import MULTIPLIERS
from edgenetllm.tasks.task import Array, Observation


def nearest(ratio: Array) -> Array:
    """The multiplier nearest to each ratio of rates, (episodes,) -> (episodes,)."""
    return np.abs(np.log(MULTIPLIERS) - np.log(ratio)[:, None]).argmin(1)


def aimd(observation: Observation, increase_mbps: float = 0.5, decrease: float = 0.5) -> Array:
    """Additive increase, and multiplicative decrease after a loss (Chiu and Jain, 1989), as far as multipliers allow."""
    rate = observation["rate_mbps"]
    return nearest(np.where(observation["lost"] > 0, decrease, 1 + increase_mbps / rate))


def delay_based(observation: Observation, target_s: float = 0.05) -> Array:
    """Send slower than was delivered above a delay and faster below it, as TCP Vegas (Brakmo and Peterson, 1995)."""
    drained = 0.9 * observation["delivered_mbps"] / observation["rate_mbps"]
    return nearest(np.where(observation["delay_s"] > target_s, np.maximum(drained, 0.01), 1.2))
