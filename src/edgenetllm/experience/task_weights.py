"""Relative weights of several tasks in a batch and a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgenetllm.errors import UserError


def task_fractions(task_names: Sequence[str], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """The fraction of a batch, and of the loss, that each task has; they sum to 1. Without weights, all have the same.

    Raises UserError unless there is a positive weight for each task.
    """
    given = dict.fromkeys(task_names, 1.0) if weights is None else dict(weights)
    if set(given) != set(task_names) or any(not weight > 0 for weight in given.values()):
        raise UserError(f"task.shares={given}: give each of {', '.join(task_names)} a positive number")
    total = sum(given.values())
    return {name: given[name] / total for name in task_names}


def split_by_task(total: int, fractions: Mapping[str, float], what: str) -> dict[str, int]:
    """`total` sequences by task, at least one each. Raises UserError, naming `what`, when there are fewer than tasks."""
    if total < len(fractions):
        raise UserError(
            f"{what}={total}: task={'+'.join(fractions)} needs at least {len(fractions)}, one for each task"
        )
    ends = np.rint(np.cumsum(list(fractions.values())) * total).astype(int)
    counts = np.maximum(np.diff(ends, prepend=0), 1)
    counts[counts.argmax()] += total - counts.sum()
    return dict(zip(fractions, map(int, counts), strict=True))
