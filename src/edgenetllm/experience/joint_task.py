"""Several tasks that one backbone serves: their shares of the work, and the one figure that they are judged by together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.task import SPLITS, Metric, Split, Task


@dataclass(frozen=True, eq=False)
class JointTask:
    """Of a run such as task=abr+cjs. It has no simulator of its own: whoever plays, plays one of `tasks`."""

    tasks: Mapping[str, Task]
    weights: Mapping[str, float]  # of the tasks in a batch, relative to each other

    # Mean over the tasks of how much better than its teacher a policy is on validation episodes, as a share of the
    # teacher's figure: 0 is as good as the teachers. It chooses the checkpoint, and a search optimises it.
    metric: ClassVar[Metric] = Metric("relative_gain", "mean gain over the teachers", "", True)
    metrics: ClassVar[tuple[Metric, ...]] = (metric,)

    def __post_init__(self) -> None:
        if set(self.weights) != set(self.tasks) or any(not weight > 0 for weight in self.weights.values()):
            raise UserError(f"task.shares={dict(self.weights)}: give each of {', '.join(self.tasks)} a positive number")

    @property
    def name(self) -> str:
        return "+".join(self.tasks)

    @property
    def shares(self) -> dict[str, float]:
        """Of a batch, by task; they sum to 1, and weight the losses."""
        return {name: self.weights[name] / sum(self.weights.values()) for name in self.tasks}

    def share_out(self, total: int, what: str) -> dict[str, int]:
        """`total` sequences by task, at least one each. Raises UserError, naming `what`, when there are fewer than tasks."""
        if total < len(self.tasks):
            raise UserError(f"{what}={total}: task={self.name} needs at least {len(self.tasks)}, one for each task")
        ends = np.rint(np.cumsum(list(self.shares.values())) * total).astype(int)
        counts = np.maximum(np.diff(ends, prepend=0), 1)
        counts[counts.argmax()] += total - counts.sum()
        return dict(zip(self.tasks, map(int, counts), strict=True))

    def logged(self, task: str, metric: str) -> str:
        """What a metric of a task is called beside those of the others: its name, unless several tasks have that."""
        found = [one for one in self.tasks.values() if metric in {m.name for m in one.metrics}]
        return metric if len(found) == 1 else f"{task}/{metric}"

    def data_hash(self, splits: Sequence[Split] = SPLITS) -> str:
        return hashlib.sha256(" ".join(task.data_hash(splits) for task in self.tasks.values()).encode()).hexdigest()

    @cached_property
    def teachers(self) -> dict[str, float]:
        """Mean metric of each task's teacher over its validation episodes, played the first time that it is asked for."""
        figures = {}
        for name, task in self.tasks.items():
            played = play(task.environment("val"), task.seeds("val"), task.teacher())
            summary = task.summarise(played.record, played.reward, played.valid)
            figures[name] = float(summary[task.metric.name].mean())
            if figures[name] == 0:
                raise UserError(f"the teacher of {name} reaches 0 on validation: nothing can be measured against it")
        return figures

    def gain(self, figures: Mapping[str, float]) -> float:
        """The value of `metric` where each task's own metric is `figures` on its validation episodes."""
        gains = []
        for name, task in self.tasks.items():
            more = (figures[name] - self.teachers[name]) / abs(self.teachers[name])
            gains.append(more if task.metric.higher_is_better else -more)
        return sum(gains) / len(gains)
