"""The contract of an engine, which turns a bundle into a session that decides.

An engine is a subclass of `Engine` in any package, and a yaml with its `_target_` in a folder `engine` of `conf/` or of
`--config-dir`. Its options are fields of a dataclass; `Affects("nothing")` marks those that cannot change a decision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects
from edgenetllm.option_types import Count, Text
from edgenetllm.tasks.task import Array, Observation, Policy, Task


class EngineSession(Policy, Protocol):
    """A bundle that plays one task: a policy whose decision is also called `decide`."""

    @property
    def return_to_go(self) -> npt.NDArray[np.float64] | None:
        """The return-to-go that is left, (episodes,)."""
        ...

    def decide(self, observation: Observation) -> Array:
        """Actions (episodes, ...) for one decision of every episode."""
        ...

    def observe(self, reward: npt.NDArray[np.float64]) -> None:
        """The rewards (episodes,) of the decision just taken."""
        ...


Name = Annotated[Text, Affects("nothing")]


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Engine(ABC):
    """The base of all engines: a name, the number of decisions that are timed, and `load`."""

    name: Name  # of this preset
    latency_decisions: Count = 47  # decisions timed one episode at a time

    @abstractmethod
    def load(self, bundle: Path, task: Task, sample_seed: int | None = None) -> EngineSession:
        """The policy of this task in a bundle; it decides greedily, unless a seed for sampling is given.

        Raises UserError for a bundle that is damaged, of another task, or of an architecture that the engine does not run.
        """

    def check(  # noqa: B027
        self, model: Mapping[str, Any], tasks: Mapping[str, Task], adapter: bool = False
    ) -> None:
        """Raises UserError, before anything expensive, for what `load` would refuse; by default nothing is refused.

        `model` is the transformers configuration of the backbone; `adapter` is True where a LoRA adapter is to stay apart
        from the matrices (pruning.lora=prune_base_keep_adapter).
        """

    @property
    def label(self) -> str:
        """The name in results, of words of small letters, digits and _."""
        return self.name

    def facts(self) -> dict[str, Any]:
        """Properties of this machine or environment that can change a decision: an instruction set, a library's version."""
        return {}
