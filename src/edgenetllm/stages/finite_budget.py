"""The numbers that a budget with null stands for, where a task has a finite set of training episodes."""

from __future__ import annotations

import math
from dataclasses import replace

from edgenetllm.config import Config, TaskConfig
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import episodes_of
from edgenetllm.trainer_options import limit_problems


def with_numbers(config: Config) -> Config:
    """The same configuration with the episodes of the pool and the batches that go once over it, where these are null.

    It reads the data. Raises UserError for null where a task draws as many training episodes as it is asked for, and for
    limits under which nothing would be learnt.
    """
    shares = config.experience.shares
    if config.budget.episodes and config.budget.batches_per_epoch and all(entry.episodes for entry in shares):
        return config
    tasks = {name: _with_numbers(of_task) for name, of_task in config.tasks.items()}
    first = next(iter(tasks.values()))
    if problems := limit_problems(first.trainer, first.budget):
        raise UserError(*problems)
    return config.model_copy(update={"tasks": tasks, "budget": first.budget, "experience": first.experience})


def _with_numbers(config: TaskConfig) -> TaskConfig:
    task, budget, experience = config.task, config.budget, config.experience
    if task.training_set is None:
        key = "batches_per_epoch" if budget.episodes else "episodes"
        raise UserError(
            f"budget.{key} is null, but task={task.name} draws as many training episodes as it is asked for: give a number"
        )
    shares = [replace(entry, episodes=episodes_of(entry, task)) for entry in experience.shares]
    episodes = sum(entry.episodes for entry in shares)
    batches = budget.batches_per_epoch or math.ceil(episodes / config.trainer.batch_size)
    numbers = {"episodes": budget.episodes or episodes, "batches_per_epoch": batches}
    return config.model_copy(
        update={
            "budget": budget.model_copy(update=numbers),
            "experience": experience.model_copy(update={"shares": shares}),
        }
    )
