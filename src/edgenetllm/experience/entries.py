"""Options of an experience pool: whose episodes it holds, and which logged ones."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.option_types import Count, FractionOrZero, Text

CutOff = Literal["leave_out", "keep"]  # of logged episodes without their end


@dataclass(config=ConfigDict(extra="forbid"))
class PoolEntry:
    """An entry of the pool: `episodes` played by `policy` ("teacher" or the name of a baseline)."""

    policy: Text
    episodes: Count
    action_noise: FractionOrZero = 0.0  # probability that a random action is taken instead
