"""Many scheduling episodes, stepped together: the Environment of `tasks/task.py` over the compiled events.

Observations are those of `observation.py`. An action is (index in the list of schedulable stages, executors), an array
(episodes, 2); index -1 leaves all executors that are still to be handed out to the common pool. The reward is minus the
job-milliseconds (active jobs integrated over time) until the next decision, so that an episode's sum is minus the sum of
its jobs' completion times. In the record, `time_s` is the time of the observation and `until_s` that of the next one.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.compiled import njit
from edgenetllm.tasks.cjs.simulator.events import committable, decide, start_all
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.observation import Observer
from edgenetllm.tasks.cjs.simulator.profiles import Tables
from edgenetllm.tasks.cjs.simulator.state import TASK, Rules, State, new_state
from edgenetllm.tasks.cjs.simulator.waiting import wait_all
from edgenetllm.tasks.task import Array, Observation, Ragged

NO_LOG = np.zeros(0, TASK)


@njit(cache=True, _nrt=False)
def _decide_all(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log, actions, rewards):
    """One decision in each episode that is not done; returns the first episode whose action is illegal, or -1."""
    for n in range(len(metas)):
        if not metas[n].done:
            index, count = actions[n, 0], actions[n, 1]
            if not -1 <= index < metas[n].schedulable:
                return n
            offered = metas[n].offered if metas[n].waited else committable(pools[n], metas[n])
            if index >= 0 and not 1 <= count <= offered:
                return n
    for n in range(len(metas)):
        rewards[n] = 0.0
        if not metas[n].done:
            rewards[n] = decide(
                jobs[n], stages[n], pools[n], executors[n], commitments[n], metas[n : n + 1],
                links, rows, durations, log, actions[n, 0], actions[n, 1],
            )  # fmt: skip
    return -1


@njit(cache=True, _nrt=False)
def _occupancy(jobs, stages, executors, held):
    """Number of the job on whose stage each executor is, -1 where it rests or moves."""
    for n in range(len(executors)):
        for e in range(executors.shape[1]):
            executor = executors[n, e]
            number = executor.pool - 1 - jobs.shape[1]
            held[n, e] = stages[n, number].job if number >= 0 else -1


class CjsEnvironment:
    """`draw` maps a seed to the jobs of its episode; the seed also fixes every task's duration, whatever the policy does.

    `first_seed` is added to every seed, so that splits cannot meet.
    """

    def __init__(self, draw: Callable[[int], Sequence[Job]], tables: Tables, rules: Rules, first_seed: int = 0) -> None:
        self.draw, self.tables, self.rules, self.first_seed = draw, tables, rules, first_seed
        self._shared = (tables.links, tables.rows, tables.durations, NO_LOG)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Observation:
        seeds = np.asarray(seeds, np.int64) + self.first_seed
        episodes = [self.draw(int(seed)) for seed in seeds]
        self.state: State = new_state(episodes, seeds, self.tables, self.rules)
        self._observe = Observer(self.state, self.tables.links)
        self._before = self.state.jobs["completed_ms"].copy()
        start_all(*self.state, *self._shared)
        self._asked_ms = self.state.meta["now_ms"].copy()
        self._observation = self._observe(self.state)
        return self._observation

    def wait(self, seconds: npt.NDArray[np.float64]) -> None:
        """Let the time of a decision pass, (episodes,), in which the cluster goes on: see waiting.py.

        Raises ValueError for negative or infinite times.
        """
        seconds = np.ascontiguousarray(seconds, np.float64)
        if seconds.shape != self.state.meta.shape or not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise ValueError(f"wait takes {self.state.meta.shape} finite seconds of at least 0")
        wait_all(*self.state, *self._shared, seconds * 1000.0)

    def elapsed_s(self) -> npt.NDArray[np.float64]:
        """Seconds since each episode began, (episodes,)."""
        return np.asarray(self.state.meta["now_ms"] / 1000.0)

    def step(self, actions: Array) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Raises ValueError for an action that its episode does not allow."""
        actions = np.ascontiguousarray(actions, np.int64)
        count = len(self.state.meta)
        if actions.shape != (count, 2):
            raise ValueError(f"actions must be ({count}, 2): stage index and executors, not {actions.shape}")
        rewards = np.zeros(count)
        self._decided_ms = self._asked_ms
        wrong = _decide_all(*self.state, *self._shared, actions, rewards)
        if wrong >= 0:
            meta = self.state.meta[wrong]
            left = self._observation["committable"][wrong]
            raise ValueError(
                f"episode {wrong}: action {actions[wrong].tolist()}, but {meta['schedulable']} stages and {left} executors"
            )
        self._asked_ms = self.state.meta["now_ms"].copy()
        self._observation = self._observe(self.state)
        return self._observation, rewards, self.state.meta["done"].astype(bool)

    def sample(self, rng: np.random.Generator) -> Array:
        """A schedulable stage and a number of executors for it."""
        index = rng.random(len(self.state.meta)) * self.state.meta["schedulable"]
        executors = 1 + rng.random(len(self.state.meta)) * self._observation["committable"]
        return np.column_stack([index, executors]).astype(np.int64)

    def record(self) -> dict[str, Array | Ragged]:
        """Figures of the decision just taken; `jct_s` are the jobs that were completed before the next one."""
        held = np.zeros(self.state.executors.shape, np.int16)
        _occupancy(self.state.jobs, self.state.stages, self.state.executors, held)
        completed = self.state.jobs["completed_ms"]
        fresh = np.isnan(self._before) & ~np.isnan(completed)
        self._before = completed.copy()
        counts = fresh.sum(1).astype(np.int32)
        jct_s = np.zeros((len(counts), max(1, int(counts.max()))))
        for n in np.flatnonzero(counts):
            jct_s[n, : counts[n]] = (completed[n, fresh[n]] - self.state.jobs["arrival_ms"][n, fresh[n]]) / 1e3
        meta = self.state.meta
        return {
            "time_s": self._decided_ms / 1e3,
            "until_s": self.state.meta["now_ms"] / 1e3,
            "job": meta["taken_job"].copy(),
            "stage": meta["taken_stage"].copy(),
            "executors": meta["taken_executors"].copy(),
            "active_jobs": meta["active"].copy(),
            "job_of_executor": held,
            "jct_s": Ragged(jct_s, counts),
        }

    def clone(self) -> CjsEnvironment:
        """An independent copy of the episodes; profiles are shared."""
        twin = copy.copy(self)
        twin.state = self.state.copy()
        twin._observe = Observer(twin.state, self.tables.links)
        twin._before = self._before.copy()
        return twin
