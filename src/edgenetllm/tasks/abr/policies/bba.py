"""BBA, which decides by the buffer alone."""

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.abr.data.ladder import PUBLIC
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.observation import Array, Observation


class Bba(Heuristic):
    """Buffer-based (Huang et al., SIGCOMM 2014): linear in the buffer between reservoir and reservoir + cushion."""

    name = "bba"

    def __init__(self, reservoir_s: float = 5.0, cushion_s: float = 10.0, levels: int = PUBLIC.levels) -> None:
        self.reservoir_s, self.cushion_s, self.levels = reservoir_s, cushion_s, levels

    def act(self, observation: Observation) -> Array:
        fraction = (observation["buffer_s"] - self.reservoir_s) / self.cushion_s
        highest = self.levels - 1
        return np.clip(highest * fraction, 0, highest).astype(np.int64)
