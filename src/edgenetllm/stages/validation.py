"""The decisions of validation: the return-to-go of each task, and the figures that a search optimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgenetllm.config import Config, TaskConfig
from edgenetllm.experience.objective import logged_name
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.rollout import play
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.session import Session
from edgenetllm.stages.pool import Pools
from edgenetllm.tasks.task import Policy, Task


def candidates(config: TaskConfig, pool: Pool) -> np.ndarray:
    """The returns-to-go that are tried, (targets,); a single 0, which nothing reads, of a task that is not conditioned."""
    if not config.task.conditioned:
        return np.zeros(1)
    return np.quantile(pool.returns, config.evaluation.targets)


def median_candidates(config: Config, pools: Pools) -> dict[str, float]:
    """The return-to-go of each task that the validations of a fit play with."""
    return {name: float(np.median(candidates(of_task, pools[name]))) for name, of_task in config.tasks.items()}


def choose_target_returns(config: Config, dense: PolicyNetwork, pools: Pools) -> dict[str, dict[str, Any]]:
    """`target_return` by task, and what was `tried` for it."""
    chosen = {
        name: _choose(of_task, dense.of_task(name), candidates(of_task, pools[name]))
        for name, of_task in config.tasks.items()
    }
    return {key: {name: facts[key] for name, facts in chosen.items()} for key in ("target_return", "tried")}


def _choose(config: TaskConfig, dense: PolicyNetwork, targets: np.ndarray) -> dict[str, Any]:
    """Play the validation episodes with each candidate and keep the best; test data is not touched."""
    task, sign = config.task, 1 if config.task.metric.higher_is_better else -1
    tried = []
    quantiles: Sequence[float | None] = config.evaluation.targets if task.conditioned else [None]
    for quantile, target in zip(quantiles, targets, strict=True):
        score = validate(task, Session(dense, float(target), "validation"))
        tried.append({"quantile": quantile, "target_return": float(target), f"val/{task.metric.name}": score})
    chosen = max(tried, key=lambda row: sign * row[f"val/{task.metric.name}"])  # type: ignore[operator]
    return {"target_return": chosen["target_return"], "tried": tried}


def validation_scores(config: Config, sessions: Mapping[str, Policy]) -> dict[str, float]:
    """Each task's metric over its validation episodes, and the objective, which a search optimises."""
    tasks = config.task_objects
    figures = {name: validate(task, sessions[name]) for name, task in tasks.items()}
    named = {logged_name(tasks, name, task.metric.name): figures[name] for name, task in tasks.items()}
    return {**named, config.objective.metric.name: config.objective.value(figures)}


def validate(task: Task, policy: Policy) -> float:
    """Mean of the task's metric over the validation episodes."""
    episodes = play(task.environment("val"), task.seeds("val"), policy)
    return float(task.summarise(episodes.record, episodes.reward, episodes.valid)[task.metric.name].mean())
