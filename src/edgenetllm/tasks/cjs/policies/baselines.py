"""Scheduling policies that need no learning, over the compiled rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.columns import LEFT, PATH, SCHEDULABLE, WHOLE_PATH, WORK
from edgenetllm.tasks.cjs.policies import rules
from edgenetllm.tasks.cjs.policies.targets import one_hot_target
from edgenetllm.tasks.cjs.policies.wide_rule import from_linear
from edgenetllm.tasks.observation import Array, Observation


class Rule:
    """A compiled rule and its weights; decisions are a function of the observation alone."""

    def __init__(self, name: str, kind: int, weights: npt.ArrayLike) -> None:
        self.name, self.kind = name, kind
        self.weights = np.asarray(weights, np.float64)

    def start(self, episodes: int) -> None:
        """Nothing to clear."""

    def act(self, observation: Observation) -> Array:
        stages, jobs = observation["stages"], observation["jobs"]
        actions = np.zeros((len(stages.count), 2), np.int64)
        rules.choose_all(
            self.kind, self.weights, stages.values, jobs.values, stages.count, jobs.count,
            observation["committable"], observation["source_job"], observation["executors"], actions,
        )  # fmt: skip
        self._meant = actions
        return actions

    def targets(self, observation: Observation) -> npt.NDArray[np.float32]:
        """The rule's own action: the one that is taken may differ, for exploration."""
        return one_hot_target(self._meant)

    def identity(self) -> str:
        """The kind of rule and its weights."""
        return f"{type(self).__module__}.{type(self).__qualname__}(kind={self.kind}, {self.weights.tolist()})"


def fifo(cap: float = 0.5, name: str = "fifo") -> Rule:
    """Jobs in order of arrival, at most `cap` of the cluster each (NetLLM: 0.5, upstream: 1)."""
    return Rule(name, rules.CAPPED, (cap, 0.0))


def fair() -> Rule:
    """An equal fraction of the cluster for every active job."""
    return weighted_fair(0.0, "fair")


def weighted_fair(alpha: float, name: str = "weighted_fair") -> Rule:
    """A fraction of the cluster proportional to (work of the job) ** alpha."""
    return Rule(name, rules.CAPPED, (0.0, alpha))


def sjf_cp(cap: float = 1e6, name: str = "sjf_cp") -> Rule:
    """The job with the least work, at most `cap` of the cluster; in it the stage on the critical path."""
    return Rule(name, rules.SHORTEST, (cap, WORK, WHOLE_PATH))


def srpt(cap: float = 1e6, name: str = "srpt") -> Rule:
    """The same with the work that has not started yet: shortest remaining processing time."""
    return Rule(name, rules.SHORTEST, (cap, LEFT, PATH))


def tuned_rule(weights: npt.ArrayLike, name: str = "tuned_rule") -> Rule:
    """The rule with weights in the order of `wide_rule.LINEAR_WEIGHTS`."""
    return Rule(name, rules.WIDE, from_linear(np.asarray(weights, np.float64)))


class Random:
    """A schedulable stage and a number of executors, uniformly; the same numbers for every replay."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def start(self, episodes: int) -> None:
        self.rng = np.random.default_rng(self.seed)

    def act(self, observation: Observation) -> Array:
        schedulable = observation["stages"].values[..., SCHEDULABLE].sum(1)
        index = self.rng.random(len(schedulable)) * schedulable
        executors = 1 + self.rng.random(len(schedulable)) * observation["committable"]
        return np.column_stack([index, executors]).astype(np.int64)

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        return None

    def identity(self) -> str:
        return f"Random({self.seed})"
