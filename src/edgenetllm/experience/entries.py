"""Options of an experience pool: whose episodes it holds, and which logged ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, WithJsonSchema
from pydantic.dataclasses import dataclass

from edgenetllm.option_types import LARGEST, FractionOrZero, Text

CutOff = Literal["leave_out", "keep"]  # of logged episodes without their end


def _number_or_all(value: Any) -> Any:
    """0 for null. Raises ValueError for what is no number of episodes or batches."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ValueError(f"give a number from 1 to {LARGEST}, or null for all of a task with a finite training set")
    return value


NUMBER_OR_ALL = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": LARGEST}, {"type": "null"}]}
NumberOrAll = Annotated[int, BeforeValidator(_number_or_all), WithJsonSchema(NUMBER_OR_ALL)]
"""A number; 0 where null was given, until the task is known (`stages/finite_budget.py`)."""


@dataclass(config=ConfigDict(extra="forbid"))
class PoolEntry:
    """An entry of the pool: `episodes` played by `policy` ("teacher", the name of a baseline, or "truth").

    0 episodes, given as None: all of a task where these are finite (`Task.training_set`).
    """

    policy: Text
    episodes: NumberOrAll
    action_noise: FractionOrZero = 0.0  # probability that a random action is taken instead
