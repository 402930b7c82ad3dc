"""The contract of `experience.expert`: a search in the simulator for a better policy than the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from edgenetllm.tasks.task import Curve, Policy, Task


@runtime_checkable
class Expert(Policy, Protocol):
    """A baseline with weights, which its identity includes."""

    def state_dict(self) -> dict[str, Tensor]: ...


@runtime_checkable
class ExpertSearch(Protocol):
    name: str

    def search(self, task: Task, seed: int, unfinished: Path, progress: bool) -> tuple[Expert, Curve]:
        """The policy that did best on validation, and how it got there.

        `unfinished` is a file from which an interrupted search goes on; it, and what begins with its name, is removed by
        the caller who has kept the result. Raises UserError for a task that it is not for.
        """
        ...

    def load(self, weights: dict[str, Tensor]) -> Expert:
        """The policy of a `state_dict`."""
        ...
