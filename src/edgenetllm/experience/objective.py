"""The one figure by which policies of one or more tasks are compared: it selects checkpoints, and a search optimises it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.task import SPLITS, Metric, Split, Task

RELATIVE_GAIN = Metric("relative_gain", "mean gain over the teachers", "", True)


class Objective:
    """The metric of the only task; of several, the mean of how much better than its teacher a policy is at each of them.

    A gain is a fraction of the teacher's figure on the validation episodes: 0 is as good as the teachers.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks

    @property
    def metric(self) -> Metric:
        """The name of `value`, and whether more of it is better."""
        return RELATIVE_GAIN if len(self.tasks) > 1 else next(iter(self.tasks.values())).metric

    @property
    def monitored(self) -> str:
        """The logged figure that chooses the checkpoint."""
        return f"val/{self.metric.name}"

    def value(self, figures: Mapping[str, float]) -> float:
        """The value of `metric` where each task's own metric is `figures` on its validation episodes."""
        if len(self.tasks) == 1:
            return figures[next(iter(self.tasks))]
        gains = []
        for name, task in self.tasks.items():
            more = (figures[name] - self.teachers[name]) / abs(self.teachers[name])
            gains.append(more if task.metric.higher_is_better else -more)
        return sum(gains) / len(gains)

    @cached_property
    def teachers(self) -> dict[str, float]:
        """Mean metric of each task's yardstick over its validation episodes, played the first time that it is asked for.

        Raises UserError where one is 0, against which nothing can be measured.
        """
        figures = {}
        for name, task in self.tasks.items():
            played = play(task.environment("val"), task.seeds("val"), task.yardstick())
            summary = task.summarise(played.record, played.reward, played.valid)
            figures[name] = float(summary[task.metric.name].mean())
            if figures[name] == 0:
                raise UserError(f"the teacher of {name} reaches 0 on validation: nothing can be measured against it")
        return figures


def logged_name(tasks: Mapping[str, Task], task_name: str, metric: str) -> str:
    """The name of a task's metric among those of all tasks: its own, unless several tasks have a metric of that name."""
    having = [one for one in tasks.values() if metric in {m.name for m in one.metrics}]
    return metric if len(having) == 1 else f"{task_name}/{metric}"


def data_hash(tasks: Mapping[str, Task], splits: Sequence[Split] = SPLITS) -> str:
    """The identity of the data of all tasks; of one, the task's own."""
    hashes = [task.data_hash(splits) for task in tasks.values()]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
