"""A task under examination: the episodes, the pool and the model that the checks of `conformance.py` look at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgenetllm.experience.collect import collect
from edgenetllm.experience.entries import PoolEntry
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.task import LEARNT_FROM, Array, Observation, Policy, Task, identity_of

EPISODES = 3
STEPS = 40  # played where not whole episodes are needed
WIDTH = 32
DECODER = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
WINDOWED_STEPS = 100  # times max_steps: more decisions than any episode of a task with a window should take


class Violation(Exception):
    """A sentence on what a task does wrong."""


class Recorded(Heuristic):
    """Takes given actions, (episodes, steps, ...), one step after another."""

    name = "recorded"

    def __init__(self, actions: Array) -> None:
        self.actions = actions

    def start(self, episodes: int) -> None:
        self.step = 0

    def act(self, observation: Observation) -> Array:
        self.step += 1
        return self.actions[:, self.step - 1]


class Examined:
    """A task, and what several checks look at, made once.

    `identities_again` gives the identities of the same task built a second time, best in another process.
    """

    def __init__(self, task: Task, identities_again: Callable[[], Mapping[str, str]]) -> None:
        self.task, self.identities_again = task, identities_again

    @property
    def most_steps(self) -> int:
        """Decisions after which an episode is given up."""
        return self.task.max_steps * (1 if self.task.window is None else WINDOWED_STEPS)

    @cached_property
    def test(self) -> npt.NDArray[np.int64]:
        """Seeds of the first test episodes."""
        return self.task.seeds("test")[:EPISODES]

    @cached_property
    def policies(self) -> dict[str, Policy]:
        return {"teacher": self.task.teacher(), **self.task.baselines()}

    @cached_property
    def played(self) -> dict[str, Episodes]:
        """The first test episodes under every policy, to their end."""
        return {name: self._play(policy) for name, policy in self.policies.items()}

    def _play(self, policy: Policy) -> Episodes:
        environment = self.task.environment("test")
        return play(environment, self.test, policy, keep_observations=True, limit=self.most_steps + 1)

    @cached_property
    def pool(self) -> Pool:
        """A small pool, collected as for a run: the teacher with random actions in between, and a baseline."""
        shares = [PoolEntry("teacher", 2 * EPISODES, 0.3), PoolEntry(next(iter(self.task.baselines())), 2)]
        with tempfile.TemporaryDirectory() as folder:
            return collect(self.task, shares, 0, Path(folder), workers=1)

    @cached_property
    def model(self) -> PolicyNetwork:
        """The task's encoder and head around a tiny backbone with random weights."""
        torch.manual_seed(0)
        return build_policy(build_decoder(DECODER), {self.task.name: self.task}, embedding_rms=1.0).eval()


def identities_of(task: Task) -> dict[str, str]:
    """The identities by which stored results of a task are found: those of its data and of its policies."""
    policies = {"teacher": task.teacher(), **task.baselines()}
    data = {"data_hash()": task.data_hash(), "data_hash(('train', 'val'))": task.data_hash(LEARNT_FROM)}
    return {**data, **{f"the identity of policy {name}": identity_of(policy) for name, policy in policies.items()}}
