"""One scheduling episode with known actions: the simulator as a function. Many at once: `environment.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.simulator.events import committable, decide, start_all
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Tables, tabulate
from edgenetllm.tasks.cjs.simulator.state import TASK, Records, Rules, State, new_state

Durations = Literal["mean", "recorded"]

DECISION = np.dtype(
    [
        ("now_ms", np.float64),
        ("source_job", np.int32),  # -1: executors of the common pool
        ("source_stage", np.int32),  # inside the job; -1: idle executors of the job
        ("committable", np.int32),
        ("schedulable", np.int32),  # stages to choose from
        ("stage_index", np.int32),  # in that list; -1: everything left to the common pool
        ("job", np.int32),
        ("stage", np.int32),
        ("requested", np.int32),
        ("committed", np.int32),
    ]
)


class Episode:
    """One episode, decision by decision; `tasks` is the log of every task started, when asked for."""

    def __init__(
        self, jobs: Sequence[Job], tables: Tables, rules: Rules, seed: int = 0, log_tasks: bool = False
    ) -> None:
        self.state: State = new_state([jobs], np.array([seed]), tables, rules)
        most = int(self.state.stages["tasks"].sum())
        self._tasks = np.zeros(most if log_tasks else 0, TASK)
        self._shared = (tables.links, tables.rows, tables.durations, self._tasks)
        start_all(*self.state, *self._shared)

    @property
    def done(self) -> bool:
        return bool(self.state.meta["done"][0])

    @property
    def tasks(self) -> Records:
        return self._tasks[: self.state.meta["tasks"][0]]

    @property
    def jct_ms(self) -> npt.NDArray[np.float64]:
        """Completion minus arrival of each job, (jobs,); NaN while it runs."""
        return np.asarray(self.state.jobs["completed_ms"][0] - self.state.jobs["arrival_ms"][0])

    def decide(self, stage_index: int, executors: int) -> tuple[Records, float]:
        """Give executors to the stage at `stage_index` of the schedulable list, or (-1) leave the rest to the common pool.

        Returns the decision as a DECISION record (a scalar array), and its reward: at the end of a round minus the
        job-milliseconds that pass until the next one. Raises ValueError for an action that the episode does not allow.
        """
        meta = self.state.meta[0]
        if self.done:
            raise ValueError("the episode is over")
        left = int(committable(self.state.pools[0], meta))
        if not -1 <= stage_index < meta["schedulable"] or (stage_index >= 0 and not 1 <= executors <= left):
            raise ValueError(
                f"decision {meta['decisions']}: stage {stage_index} of {meta['schedulable']}, {executors} of {left} executors"
            )
        record = np.zeros((), DECISION)
        record["now_ms"], record["committable"], record["schedulable"] = meta["now_ms"], left, meta["schedulable"]
        record["source_job"], record["source_stage"] = self._source()
        reward = float(
            decide(*(records[0] for records in self.state[:-1]), self.state.meta, *self._shared, stage_index, executors)
        )
        record["stage_index"], record["requested"] = stage_index, executors
        record["job"], record["stage"] = meta["taken_job"], meta["taken_stage"]
        record["committed"] = meta["taken_executors"]
        return record, reward

    def _source(self) -> tuple[int, int]:
        jobs, stages, pool = self.state.jobs[0], self.state.stages[0], int(self.state.meta["source"][0])
        if pool <= len(jobs):
            return pool - 1, -1
        job = int(stages["job"][pool - 1 - len(jobs)])
        return job, pool - 1 - len(jobs) - int(jobs["first"][job])


def play(
    jobs: Sequence[Job],
    profiles: Sequence[Profile],
    num_executors: int,
    *,
    actions: Iterable[tuple[int, int]],
    durations: Durations = "mean",
    moving_delay_ms: float = 2000.0,
    warmup_delay_ms: float = 1000.0,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], Records, npt.NDArray[np.float64]]:
    """Replay decisions (stage index in the schedulable list, executors) from the first arrival on.

    `durations="mean"` takes the rounded mean of the measurements and the likelier executor count; "recorded" samples both
    with `seed`. Returns jct_ms (jobs,), NaN for jobs that the actions do not complete; the decisions (n,) of DECISION;
    their rewards (n,) in ms. Raises UserError for impossible jobs, profiles or cluster, ValueError for an illegal action.
    """
    rules = Rules(num_executors, moving_delay_ms, warmup_delay_ms, durations == "recorded")
    episode = Episode(jobs, tabulate(profiles), rules, seed)
    played = [episode.decide(*action) for action in actions]
    decisions = np.array([record for record, _ in played], DECISION)
    return episode.jct_ms, decisions, np.array([reward for _, reward in played], np.float64)
