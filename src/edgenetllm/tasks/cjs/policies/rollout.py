"""Whole episodes under a compiled rule, without leaving compiled code: for tuning, bounds and benchmarks."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.compiled import njit
from edgenetllm.tasks.cjs.data.datasets import Workload
from edgenetllm.tasks.cjs.policies.baselines import Rule
from edgenetllm.tasks.cjs.policies.rules import choose
from edgenetllm.tasks.cjs.simulator.events import advance, decide
from edgenetllm.tasks.cjs.simulator.observation import Observer, observe
from edgenetllm.tasks.cjs.simulator.profiles import Tables
from edgenetllm.tasks.cjs.simulator.state import TASK, Rules, State, new_state


@njit(cache=True, _nrt=False, nogil=True)
def _run(
    jobs, stages, pools, executors, commitments, metas, links, rows, durations, log,
    stage_rows, job_rows, edge_rows, kind, weights,
):  # fmt: skip
    for n in range(len(metas)):
        meta = metas[n : n + 1]
        advance(jobs[n], stages[n], pools[n], executors[n], commitments[n], meta, links, rows, durations, log)
        while not meta[0].done:
            n_stages, n_jobs, _, committable, source = observe(
                jobs[n], stages[n], pools[n], executors[n], meta, links, stage_rows, job_rows, edge_rows
            )
            index, count = choose(
                kind, weights, stage_rows, job_rows, n_stages, n_jobs, committable, source, len(executors[n])
            )
            decide(
                jobs[n], stages[n], pools[n], executors[n], commitments[n], meta, links, rows, durations, log,
                index, count,
            )  # fmt: skip


def jct_ms(
    rule: Rule, data: Workload, tables: Tables, seeds: npt.NDArray[np.int64], rules: Rules | None = None
) -> npt.NDArray[np.float64]:
    """Mean completion time of each seed's episode under a rule, (episodes,); `rules`: other than the data's own."""
    cluster = data.cluster()
    jobs = [cluster.mix.draw(int(seed), data) for seed in seeds]
    return run_rule(new_state(jobs, seeds, tables, rules or cluster.rules), tables, rule.kind, rule.weights)


def run_rule(state: State, tables: Tables, kind: int, weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Play new episodes to their end under rule `kind`; `state` is changed. Mean completion time in ms, (episodes,)."""
    observer = Observer(State(*(records[:1] for records in state)), tables.links)
    edges = int(state.stages["children"].sum(1).max())
    _run(
        *state, tables.links, tables.rows, tables.durations, np.zeros(0, TASK),
        observer.stages[0], observer.jobs[0], np.zeros((edges, 2), np.int32), kind, np.asarray(weights, np.float64),
    )  # fmt: skip
    jct = state.jobs["completed_ms"] - state.jobs["arrival_ms"]
    return np.asarray(np.nanmean(np.where(state.jobs["stages"] > 0, jct, np.nan), axis=1))
