"""What `experience.improvement` is: a way to make a better policy than the baselines, by trying in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from edgenetllm.tasks.task import Baseline, Curve, Task


@runtime_checkable
class Improved(Baseline, Protocol):
    """A baseline with weights, which its identity includes."""

    def state_dict(self) -> dict[str, Tensor]: ...


@runtime_checkable
class Improver(Protocol):
    name: str

    def improve(self, task: Task, seed: int, unfinished: Path, progress: bool) -> tuple[Improved, Curve]:
        """The policy that did best on validation, and how it got there.

        `unfinished` is a file from which an interrupted improvement goes on; it, and what begins with its name, is removed by
        the caller who has kept the result. Raises UserError for a task that it is not for.
        """
        ...

    def load(self, weights: dict[str, Tensor]) -> Improved:
        """The policy of a `state_dict`."""
        ...
