"""Policies that need no learning, written as a function or as a small class."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Array, Observation


class Heuristic:
    """A policy without targets. A subclass has a `name` and `act`, and `start` where it keeps a history."""

    name = ""
    _arguments: list[Any]

    def __new__(cls, *positional: Any, **named: Any) -> Self:
        policy = super().__new__(cls)
        policy._arguments = [positional, named]
        return policy

    def start(self, episodes: int) -> None:
        """Nothing to clear."""

    def act(self, observation: Observation) -> Array:
        """Actions (episodes, ...) for one decision of every episode."""
        raise NotImplementedError

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        return None

    def identity(self) -> str:
        """The class and the arguments that it was made with. Raises UserError where these are not plain values."""
        return f"{type(self).__module__}.{type(self).__qualname__}{_plain(self.name, self._arguments)}"


class FunctionPolicy(Heuristic):
    """`function(observation, **options)` as a policy: from columns (episodes, ...) to actions (episodes, ...).

    What it decides must follow from the observation and the options alone. Raises UserError for a function that has no name
    in a module (a lambda, or one inside of another function): its policy could not be found again, nor sent to a process.
    """

    def __init__(self, name: str, function: Callable[..., Array], **options: Any) -> None:
        where = getattr(function, "__qualname__", "<")
        if "<" in where:
            raise UserError(
                f"policy {name!r}: {function!r} is not a function of a module: write it with def, at the top"
            )
        self.name, self.function, self.options = name, function, options

    def act(self, observation: Observation) -> Array:
        return self.function(observation, **self.options)

    def identity(self) -> str:
        """The function and its options. Raises UserError where these are not plain values."""
        return f"{self.function.__module__}.{self.function.__qualname__}{_plain(self.name, self.options)}"


def _plain(name: str, options: Any) -> str:
    try:
        return json.dumps(options, sort_keys=True)
    except TypeError:
        raise UserError(f"policy {name!r}: write its identity(), as not all its arguments are plain values") from None
