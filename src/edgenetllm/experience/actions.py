"""The actions of a stored pool, checked as the task's simulator and head would take them: a pool may be somebody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edgenetllm.errors import UserError
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.tasks.task import Array, Task

WIDTH = 4  # of a head that is only asked for the number of its choices


def check_actions(pool: Pool, task: Task, where: Path) -> None:
    """Raises UserError, naming `where`, episode and step, for an action that the task does not have, or not at that step."""
    try:
        _check_range(pool, task)
        if type(task).illegal_action is not Task.illegal_action:
            _check_decisions(pool, task)
    except UserError as error:
        raise UserError(f"{where}: column action{error}") from None


def _check_range(pool: Pool, task: Task) -> None:
    """Raises UserError for actions of another form than those of the simulator, or beyond the choices of the head."""
    environment = task.environment("train")
    environment.reset(np.zeros(1, np.int64))
    sample = environment.sample(np.random.default_rng(0))
    shape, whole = sample.shape[1:], sample.dtype.kind in "iu"
    if pool.action.shape[2:] != shape or (pool.action.dtype.kind == "i") != whole:
        needed = f"{'whole numbers' if whole else 'numbers'} of shape {shape}"
        raise UserError(f" is {pool.action.dtype} {pool.action.shape}; task {task.name} needs {needed}")
    with torch.random.fork_rng(devices=[]):
        choices = (task.head(WIDTH).for_edge() or {}).get("choices")
    if choices is None or shape:
        return
    outside = pool.valid & ((pool.action < 0) | (pool.action >= choices))
    if outside.any():
        episode, step = np.argwhere(outside)[0].tolist()
        given = pool.action[episode, step]
        raise UserError(f", episode {episode}, step {step}: {given} must be from 0 to {choices - 1}")


def _check_decisions(pool: Pool, task: Task) -> None:
    """Raises UserError for an action that the task says cannot be taken on its observation."""
    for episode, step in np.argwhere(pool.valid).tolist():
        observation = {name: _of_decision(column, episode, step) for name, column in pool.observation.items()}
        try:
            reason = task.illegal_action(pool.action[episode, step], observation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise UserError(f": the observation is not that of task {task.name}: {error!r:.80}") from None
        if reason is not None:
            raise UserError(f", episode {episode}, step {step}: it cannot be taken: {reason}")


def _of_decision(column: Array | RaggedColumn, episode: int, step: int) -> Array:
    return column.rows(episode, step, step + 1) if isinstance(column, RaggedColumn) else column[episode, step]
