"""The actions of a stored pool, checked as the task's simulator and head would take them: a pool may be somebody else's."""

from __future__ import annotations

import numpy as np
import torch

from edgenetllm.errors import UserError
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.tasks.task import Array, Task

WIDTH = 4  # of a head that is only asked for the number of its choices


def check_actions(pool: Pool, task: Task) -> None:
    """Raises UserError, naming episode and step, for an action that the task does not have, or not on its observation."""
    # The form of an action, and its range where the head says one.
    environment = task.environment("train")
    environment.reset(np.zeros(1, np.int64))
    sample = environment.sample(np.random.default_rng(0))
    shape, whole = sample.shape[1:], sample.dtype.kind in "iu"
    if pool.action.shape[2:] != shape or (pool.action.dtype.kind == "i") != whole:
        kind = "whole numbers" if whole else "numbers"
        raise UserError(
            f"column action is {pool.action.dtype} {pool.action.shape}; task {task.name} needs {kind} {shape}"
        )
    with torch.random.fork_rng(devices=[]):
        choices = (task.head(WIDTH).for_edge() or {}).get("choices")
    if choices is not None and not shape:
        outside = pool.valid & ((pool.action < 0) | (pool.action >= choices))
        if outside.any():
            episode, step = np.argwhere(outside)[0].tolist()
            raise UserError(
                f"column action, episode {episode}, step {step}: {pool.action[episode, step]} must be from 0 to {choices - 1}"
            )
    # What the task itself says of each decision, if it says anything.
    if type(task).illegal_action is Task.illegal_action:
        return
    for episode, step in np.argwhere(pool.valid).tolist():
        observation = {name: _of_decision(column, episode, step) for name, column in pool.observation.items()}
        try:
            reason = task.illegal_action(pool.action[episode, step], observation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise UserError(
                f"the columns of the observation are not those of task {task.name}: {error!r:.80}"
            ) from None
        if reason is not None:
            raise UserError(f"column action, episode {episode}, step {step}: it cannot be taken: {reason}")


def _of_decision(column: Array | RaggedColumn, episode: int, step: int) -> Array:
    return column.rows(episode, step, step + 1) if isinstance(column, RaggedColumn) else column[episode, step]
