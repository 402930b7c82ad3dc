"""Play whole episodes of any task with any policy and keep what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from edgenetllm.experience.ragged import RaggedColumn, from_steps
from edgenetllm.tasks.common.truth import Truth
from edgenetllm.tasks.names import check_record
from edgenetllm.tasks.task import (
    Array,
    Environment,
    LabelledEnvironment,
    Observation,
    Policy,
    Ragged,
    WaitingEnvironment,
)

Column = Array | RaggedColumn


@dataclass
class Episodes:
    """Columns (episodes, steps, ...); `valid` marks the steps that were really played."""

    observation: dict[str, Column]  # empty unless asked for
    action: Array  # int64 or float64, whatever type a policy gives: those of several are kept together
    reward: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]
    record: dict[str, Column]  # the task's own columns, see Environment.record
    target: npt.NDArray[np.float32] | None  # supervised targets, see Policy.targets
    return_to_go: npt.NDArray[np.float64] | None  # of the policy at each step, where it has one
    decision_ms: npt.NDArray[np.float64]  # (steps,) wall time of one decision of all episodes together


def play(
    environment: Environment,
    seeds: npt.NDArray[np.int64],
    policy: Policy,
    *,
    keep_observations: bool = False,
    disturb: Callable[[Array], Array] | None = None,
    on_step: Callable[[], object] | None = None,
    limit: int | None = None,
    wait: Callable[[], npt.NDArray[np.float64]] | None = None,
) -> Episodes:
    """Play one episode per seed, shape (episodes,), until all are done or `limit` decisions have been taken.

    `disturb` maps the policy's actions to those really taken (action noise); soft targets stay the policy's own, and in an
    environment that knows the answers they are these (`Truth.target`). `wait`
    gives the seconds that the decision just taken takes, (episodes,), in an environment that can wait.
    Raises UserError at the first step for a record with a column that every replay has.
    """
    # Start all episodes, and lists of what happens in them.
    observation = environment.reset(seeds)
    policy.start(len(seeds))
    alive = np.ones(len(seeds), bool)
    observations: dict[str, list[Array | Ragged]] = {}
    records: dict[str, list[Array | Ragged]] = {}
    actions: list[Array] = []
    rewards: list[npt.NDArray[np.float64]] = []
    valid: list[npt.NDArray[np.bool_]] = []
    targets: list[npt.NDArray[np.float32]] = []
    returns_to_go: list[npt.NDArray[np.float64]] = []
    decision_ms: list[float] = []
    while alive.any() and len(actions) != limit:
        # The policy decides.
        if keep_observations:
            for name, value in observation.items():
                observations.setdefault(name, []).append(_copy(value))
        if (left := getattr(policy, "return_to_go", None)) is not None:
            returns_to_go.append(left.copy())
        began = time.perf_counter()
        action = act(policy, environment, observation)
        decision_ms.append(1e3 * (time.perf_counter() - began))
        target = _targets(policy, environment, observation) if keep_observations else None
        if target is not None:
            targets.append(np.asarray(target, np.float32))
        # The action, possibly disturbed, is taken.
        if disturb is not None:
            action = disturb(action)
        if wait is not None:
            cast(WaitingEnvironment, environment).wait(wait())
        observation, reward, done = environment.step(action)
        if hasattr(policy, "observe"):
            policy.observe(reward)
        # Keep what happened.
        recorded = environment.record()
        if not records:
            check_record(recorded, type(environment))
        for name, value in recorded.items():
            records.setdefault(name, []).append(_copy(value))
        actions.append(action)
        rewards.append(np.where(alive, reward, 0.0))
        valid.append(alive.copy())
        alive &= ~done
        if on_step is not None:
            on_step()
    # Steps become columns.
    return Episodes(
        observation={name: _column(values) for name, values in observations.items()},
        action=_widest(np.stack(actions, 1)),
        reward=np.stack(rewards, 1),
        valid=np.stack(valid, 1),
        record={name: _column(values) for name, values in records.items()},
        target=np.stack(targets, 1) if targets else None,
        return_to_go=np.stack(returns_to_go, 1) if returns_to_go else None,
        decision_ms=np.array(decision_ms),
    )


def act(policy: Policy, environment: Environment, observation: Observation) -> Array:
    """The policy's actions for one decision of every episode, (episodes, ...); `truth` is given the answers."""
    return policy.answer(environment) if isinstance(policy, Truth) else policy.act(observation)


def _targets(policy: Policy, environment: Environment, observation: Observation) -> npt.NDArray[np.float32] | None:
    if isinstance(environment, LabelledEnvironment):
        return Truth.target(environment.answers(), environment.choices)
    return policy.targets(observation)


def _widest(action: Array) -> Array:
    return action.astype(np.float64 if np.issubdtype(action.dtype, np.floating) else np.int64, copy=False)


def _copy(value: Array | Ragged) -> Array | Ragged:
    return Ragged(value.values.copy(), value.count.copy()) if isinstance(value, Ragged) else np.array(value)


def _column(steps: list[Array | Ragged]) -> Column:
    """Values of each step, (episodes, ...), to (episodes, steps, ...)."""
    ragged = [step for step in steps if isinstance(step, Ragged)]
    return from_steps(ragged) if ragged else np.stack([np.asarray(step) for step in steps], 1)
