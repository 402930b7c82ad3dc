"""The numbers that a budget with null stands for, where a task has a finite set of training episodes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import episodes_of
from edgenetllm.sections import Budget, Settings
from edgenetllm.tasks.task import Task


def with_numbers(settings: Settings, task: Task) -> Settings:
    """The same settings with the episodes of the pool and the batches that go once over it, where these are null.

    Raises UserError for null where the task draws as many training episodes as it is asked for.
    """
    if task.training_set is None:
        _require_numbers(settings.budget, task.name)
    shares = [replace(entry, episodes=episodes_of(entry, task)) for entry in settings.experience.shares]
    episodes = sum(entry.episodes for entry in shares)
    batches = settings.budget.batches_per_epoch or math.ceil(episodes / settings.trainer.batch_size)
    changed: dict[str, Any] = {"episodes": settings.budget.episodes or episodes, "batches_per_epoch": max(1, batches)}
    budget = settings.budget.model_copy(update=changed)
    return settings.model_copy(
        update={"budget": budget, "experience": settings.experience.model_copy(update={"shares": shares})}
    )


def _require_numbers(budget: Budget, task_name: str) -> None:
    for key in ("episodes", "batches_per_epoch"):
        if not getattr(budget, key):
            raise UserError(
                f"budget.{key} is null, but task={task_name} draws as many training episodes as it is asked for: give a "
                "number"
            )
