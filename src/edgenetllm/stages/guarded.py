"""The row `guarded` of a results table: the bundle as an agent plays it, with deadline, guard and fall-back of `edge.*`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.agent.guarded import GuardedPolicy, guarded
from edgenetllm.edge.engines.compiled import CompiledEngine, CompiledSession
from edgenetllm.edge.engines.engine import EngineSession
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.report.results import Guarded
from edgenetllm.tasks.names import GUARDED
from edgenetllm.tasks.task import Array, Observation, Task


class GuardedPlayer:
    """A guarded policy as one that a replay plays; keeps who decided, and in what time."""

    name = GUARDED

    def __init__(self, policy: GuardedPolicy, identity: str, sample_seed: int | None) -> None:
        self.policy, self._identity, self.sample_seed = policy, identity, sample_seed

    def identity(self) -> str:
        """The options of `edge`, and what determines the model's decisions."""
        return self._identity

    def start(self, episodes: int) -> None:
        self.session = self.policy.start(episodes, self.sample_seed)
        self.reasons: list[list[str | None]] = []
        self.ms: list[list[float]] = []

    def act(self, observation: Observation) -> Array:
        action: Array = self.session.decide(observation)
        self.reasons.append([one.reason for one in self.session.outcome])
        self.ms.append([one.ms for one in self.session.outcome])
        return action

    decide = act

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        return None

    def observe(self, reward: npt.NDArray[np.float64]) -> None:
        self.session.observe(reward)

    @property
    def return_to_go(self) -> npt.NDArray[np.float64] | None:
        """The return-to-go that is left, (episodes,); None in a task that is not conditioned."""
        left = self.session.return_to_go
        return None if left is None else np.asarray(left)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of `replay.parquet` that this row has of its own, (episodes, steps)."""
        return {"reason": np.array(self.reasons, object).T, "decision_ms": np.array(self.ms).T}


def check_edge(config: Config) -> None:
    """Raises UserError, before anything expensive, for options of `edge` that could not be played."""
    if not config.edge.is_set:
        return
    if not isinstance(config.engine, CompiledEngine):
        raise UserError(f"edge.*: the row {GUARDED} is played by engine=compiled, not by engine={config.engine.name}")
    names = {name: list(task.fallbacks()) for name, task in config.task_objects.items()}
    for name, task in config.task_objects.items():
        if not names[name]:
            raise UserError(f"edge.*: task={name} has no fall-back policies (Task.fallbacks)")
        if not has_counterparts(task):
            raise UserError(
                f"edge.*: encoder or head of task={name} do not run without torch (for_edge), as an agent's must"
            )
    if config.edge.fallback is not None and not any(config.edge.fallback in known for known in names.values()):
        known = "; ".join(f"{name}: {', '.join(policies)}" for name, policies in names.items())
        raise UserError(f"edge.fallback={config.edge.fallback}: there is no such policy ({known})")


def has_counterparts(task: Task) -> bool:
    """True where encoder and head of a task can be built without torch."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return task.encoder(8).for_edge() is not None and task.head(8).for_edge() is not None


def guarded_player(config: TaskConfig, sparse: EngineSession) -> GuardedPlayer | None:
    """The bundle of the session `sparse` as the agent plays it; None where `edge` asks for nothing.

    Raises UserError for a bundle that lacks what `edge` needs.
    """
    if not config.edge.is_set:
        return None
    if not isinstance(sparse, CompiledSession):
        raise UserError(
            f"edge.*: the bundle does not describe the networks of task={config.task.name}: export it again"
        )
    safety = config.edge.safety(config.task.fallbacks())
    return GuardedPlayer(guarded(sparse.edge, safety), f"{GUARDED} {safety} {sparse.identity()}", sparse.sample_seed)


def play_guarded(config: TaskConfig, player: GuardedPlayer) -> Episodes:
    """The test episodes, each of which decides alone, in turn."""
    return play(config.task.environment("test"), config.task.seeds("test"), player)


def describe_guarded(player: GuardedPlayer, played: Episodes) -> Guarded:
    """The `guarded` field of results: what was counted in the episodes that were played."""
    reasons = [reason for reason in player.columns()["reason"][played.valid] if reason is not None]
    safety = player.policy.safety
    return Guarded(
        fallback=player.policy.fallback.name,
        decisions=int(played.valid.sum()),
        events={reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        deadline_ms=safety.deadline_ms,
        guard=safety.guard,
        faults=None if safety.faults is None else vars(safety.faults),
    )
