"""Policies whose decisions take the time of a placement, as policies that a replay plays, and what they have cost."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgenetllm.models.session import Session
from edgenetllm.placement.link import Floats, Link
from edgenetllm.placement.messages import NUMBER_BYTES, action_bytes, observation_bytes, token_bytes
from edgenetllm.placement.placements import Adaptive, Cloud, Split
from edgenetllm.tasks.task import Array, Observation, Policy

Mask = npt.NDArray[np.bool_]
Unsure = Callable[[Observation], Mask]
"""A rule that marks the episodes whose observation is unlike the training data of the bundle, (episodes,)."""


class EngineTimes(NamedTuple):
    """Milliseconds of a decision: of the bundle at the edge, and of the dense model in the cloud."""

    edge_ms: float
    cloud_ms: float


class Cost(NamedTuple):
    """The costs of a decision in each episode, (episodes,) each."""

    seconds: Floats
    up_bytes: Floats
    down_bytes: Floats
    asked: Mask  # the cloud decided, or was asked to
    late: Mask  # its answer was not waited for


class Decider(Protocol):
    """Decides, and says what that has cost; `start` begins episodes."""

    def start(self, episodes: int) -> None: ...

    def decide(self, observation: Observation, now_s: Floats, step: int) -> tuple[Array, Cost]:
        """Actions (episodes, ...), at `now_s` (episodes,) seconds into each episode."""
        ...

    def observe(self, reward: Floats) -> None: ...


class AtEdge:
    """The bundle decides at the edge."""

    def __init__(self, bundle: Policy, times: EngineTimes) -> None:
        self.bundle, self.times = bundle, times

    def start(self, episodes: int) -> None:
        self.bundle.start(episodes)

    def decide(self, observation: Observation, now_s: Floats, step: int) -> tuple[Array, Cost]:
        nothing, no = np.zeros(len(now_s)), np.zeros(len(now_s), bool)
        return self.bundle.act(observation), Cost(nothing + self.times.edge_ms / 1000, nothing, nothing, no, no)

    def observe(self, reward: Floats) -> None:
        observe(self.bundle, reward)


class InCloud:
    """The dense model decides, in the cloud as a whole or with encoder and head at the edge."""

    def __init__(
        self, placement: Cloud | Split, dense: Session, times: EngineTimes, link: Link, inputs: Collection[str] | None
    ) -> None:
        self.placement, self.dense, self.times, self.link, self.inputs = placement, dense, times, link, inputs

    def start(self, episodes: int) -> None:
        self.dense.start(episodes)

    def decide(self, observation: Observation, now_s: Floats, step: int) -> tuple[Array, Cost]:
        action = self.dense.act(observation)
        up, down = self._bytes(observation, action, step)
        seconds = exchange_s(self.link, now_s, up, down, self.times.cloud_ms, step)
        overhead = self.link.overhead_bytes
        every = np.ones(len(now_s), bool)
        return action, Cost(seconds, up + overhead, down + overhead, every, ~every)

    def observe(self, reward: Floats) -> None:
        observe(self.dense, reward)

    def _bytes(self, observation: Observation, action: Array, step: int) -> tuple[Floats, Floats]:
        """The bytes that go up and come down: observation, with the reward of the decision before, and action; or tokens."""
        if isinstance(self.placement, Cloud):
            return observation_bytes(observation, self.inputs) + NUMBER_BYTES * (step > 0), action_bytes(action)
        networks = self.dense.networks
        value_bytes = networks.norm.weight.element_size()
        width = networks.norm.weight.shape[0]
        first = step == 0 and not networks.independent  # that of the action before is not there yet
        tokens = networks.tokens_per_step - first
        return token_bytes(len(action), tokens, width, value_bytes), token_bytes(len(action), 1, width, value_bytes)


class Asking:
    """The bundle decides at the edge, and where it is unsure and the link allows the dense model in the cloud is asked.

    The cloud gets the decisions since it was asked last: both models know of every action that was taken.
    """

    def __init__(
        self,
        placement: Adaptive,
        bundle: Session,
        dense: Session,
        times: EngineTimes,
        link: Link,
        unsure: Unsure | None,
        inputs: Collection[str] | None,
    ) -> None:
        self.placement, self.bundle, self.dense, self.times, self.link = placement, bundle, dense, times, link
        self.unsure, self.inputs = unsure, inputs

    def start(self, episodes: int) -> None:
        self.bundle.start(episodes)
        self.dense.start(episodes)
        self.untold = np.zeros(episodes)  # bytes that the cloud has not got

    def decide(self, observation: Observation, now_s: Floats, step: int) -> tuple[Array, Cost]:
        # Both decide, so that both know the episode; the dense model's action counts where it is asked for.
        own, other = self.bundle.act(observation), self.dense.act(observation)
        self.untold += observation_bytes(observation, self.inputs)
        down, deadline_s = action_bytes(other), self.placement.deadline_ms / 1000
        # Is the cloud asked?
        edge_s, cloud_s = self.times.edge_ms / 1000, self.times.cloud_ms / 1000
        expected = self.link.estimate_s(now_s + edge_s, self.untold, down) + cloud_s
        unsure = np.ones(len(now_s), bool) if self.unsure is None else self.unsure(observation)
        asked = unsure & (expected <= deadline_s)
        # When is its answer there?
        seconds = exchange_s(self.link, now_s + edge_s, self.untold, down, self.times.cloud_ms, step)
        late = asked & (seconds > deadline_s)
        shape = (-1,) + (1,) * (own.ndim - 1)
        action = np.where((asked & ~late).reshape(shape), other, own)
        self.bundle.took(action)
        self.dense.took(action)
        # The costs, and what the cloud does not know yet: of a decision the reward, and the action unless it is its own.
        overhead = self.link.overhead_bytes
        up = np.where(asked, self.untold + overhead, 0.0)
        down = np.where(asked, down + overhead, 0.0)
        self.untold[asked] = 0.0
        self.untold += np.where(asked & ~late, 0.0, action_bytes(action)) + NUMBER_BYTES
        return action, Cost(edge_s + np.where(asked, np.minimum(seconds, deadline_s), 0.0), up, down, asked, late)

    def observe(self, reward: Floats) -> None:
        observe(self.bundle, reward)
        observe(self.dense, reward)


def exchange_s(link: Link, now_s: Floats, up: Floats, down: Floats, cloud_ms: float, step: int) -> Floats:
    """Seconds from `now_s` until the answer is there: one message up, the engine's time, one down, (episodes,)."""
    there = link.message_s(now_s, up, step, up=True) + cloud_ms / 1000
    return there + link.message_s(now_s + there, down, step, up=False)


def observe(policy: Policy, reward: Floats) -> None:
    """Tell a policy that has a return-to-go the rewards of its decision."""
    if hasattr(policy, "observe"):
        policy.observe(reward)


class PlacedPlayer:
    """A decider as a policy that a replay plays; `wait_s` gives the time of the decision just taken, `costs` all of them."""

    def __init__(self, name: str, decider: Decider, link: Link | None, seeds: npt.NDArray[np.int64]) -> None:
        self.name, self.decider, self.link, self.seeds = name, decider, link, seeds
        self.elapsed_s: Callable[[], Floats] = lambda: np.zeros(len(seeds))  # of the environment that is played

    def identity(self) -> str:
        """The row's name: what it did is not stored, as the times of engines are measured."""
        return self.name

    def start(self, episodes: int) -> None:
        self.decider.start(episodes)
        if self.link is not None:
            self.link.start(self.seeds)
        self.costs: list[Cost] = []

    def act(self, observation: Observation) -> Array:
        action, cost = self.decider.decide(observation, self.elapsed_s(), len(self.costs))
        self.costs.append(cost)
        return action

    decide = act

    def wait_s(self) -> Floats:
        """Seconds of the decision just taken, (episodes,)."""
        return self.costs[-1].seconds

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        return None

    def observe(self, reward: Floats) -> None:
        self.decider.observe(reward)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A field of every decision's cost, (episodes, steps)."""
        return np.stack([np.asarray(getattr(cost, name), np.float64) for cost in self.costs], 1)
