"""The fit of a policy, and the return-to-go that validation then chooses for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgenetllm.config import Config
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.specialisation.fit import Fitted, fit
from edgenetllm.stages.pool import Pools
from edgenetllm.stages.validation import choose_target_returns
from edgenetllm.tracking.loggers import Loggers


@dataclass
class Learnt:
    """A policy that has learnt, with the return-to-go of each task that validation chose."""

    policy: PolicyNetwork
    fitted: Fitted
    target_returns: dict[str, float]
    objective: float  # on validation, with these returns
    seconds: float  # of the fit and of this choice


def learn(config: Config, policy: PolicyNetwork, pools: Pools, loggers: Loggers | None, trained: list[str]) -> Learnt:
    """Train a policy in place, then choose the return-to-go of each task on its validation episodes."""
    began = time.perf_counter()
    fitted = fit(config, policy, pools, loggers, trained)
    policy.to(config.trainer.device)
    chosen = choose_target_returns(config, policy, pools)
    policy.cpu()
    tried, targets = chosen["tried"], chosen["target_return"]
    figures = {
        name: next(row[f"val/{task.metric.name}"] for row in tried[name] if row["target_return"] == targets[name])
        for name, task in config.task_objects.items()
    }
    return Learnt(policy, fitted, targets, config.objective.value(figures), time.perf_counter() - began)
