"""Small bundles with fall-back policies and a guard, and what plays with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.edge.agent.guarded import GuardedPolicy, Safety, guarded
from edgenetllm.edge.calibrate_guard import calibrate
from edgenetllm.edge.export import edge_inputs
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.tasks.task import Array, Policy, Task

NAMES = {"abr": "fused", "cjs": "pointer"}


def pool_of(task: Task, policy: Policy, episodes: int = 60) -> Pool:
    """Training episodes of a policy, in which half of the actions are drawn, as one with random weights may choose them."""
    environment, rng = task.environment("train"), np.random.default_rng(0)

    def disturb(action: Array) -> Array:
        drawn = rng.random(len(action)) < 0.5
        return np.where(drawn.reshape(-1, *[1] * (action.ndim - 1)), environment.sample(rng), action)

    one = play(environment, np.arange(episodes), policy, keep_observations=True, disturb=disturb)
    return Pool(one.observation, one.action, one.reward, one.valid, None, None, {})


def bundle_of(name: str, folder: Path, **options: Any) -> tuple[Task, Path]:
    """A task, and a bundle of random weights that describes fall-back policies and a guard."""
    task = TASKS[NAMES.get(name, name)]()
    policy = make(task)
    inputs = edge_inputs(policy.networks())
    assert inputs is not None
    guard = calibrate(pool_of(task, task.teacher()), inputs)
    described = {"fallbacks": {task.name: task.fallbacks()}, "guards": {task.name: guard}}
    return task, export(policy, folder / "bundle", **{"values": "int8", **described, **options})


class Player:
    """A policy of the edge as one that an environment's episodes are played with; keeps who decided."""

    name = "edge"

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def identity(self) -> str:
        return "edge"

    def start(self, episodes: int) -> None:
        self.session, self.outcomes = self.policy.start(episodes), []

    def act(self, observation: Any) -> Array:
        action = self.session.decide(observation)
        if isinstance(self.policy, GuardedPolicy):
            self.outcomes.append([one.reason for one in self.session.outcome])
        return action

    def targets(self, observation: Any) -> None:
        return None

    def observe(self, reward: Array) -> None:
        self.session.observe(reward)


def play_with(task: Task, folder: Path, safety: Safety | None, episodes: int = 4) -> tuple[Episodes, Player]:
    """Test episodes with the bundle, guarded unless `safety` is None."""
    policy = edge.load(folder)
    player = Player(policy if safety is None else guarded(policy, safety))
    return play(task.environment("test"), task.seeds("test")[:episodes], player), player
