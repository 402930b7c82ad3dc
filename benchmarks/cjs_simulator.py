"""Speed of the scheduling simulator on one core, in NetLLM's default setting (50 executors, 200 jobs) under Fair.

    python benchmarks/cjs_simulator.py [--data-dir data]     # generated profiles; with --data-dir, TPC-H's from there

Timed are the events alone (known actions), the whole compiled loop (reset, observation, rule, events), and the vectorised
environment as a policy would step it. The public simulator does about 1,900 decisions/s and 116,000 tasks/s on one core
(measured elsewhere); the targets were 100 and 30 times that.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit

from edgenetllm.tasks.cjs.data.datasets import SyntheticDags, Tpch
from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.policies.rollout import run_rule
from edgenetllm.tasks.cjs.simulator.environment import NO_LOG, CjsEnvironment
from edgenetllm.tasks.cjs.simulator.events import advance, decide
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.cjs.simulator.state import new_state

PUBLIC = (1_900, 116_000)  # decisions and tasks per second


@njit(_nrt=False)
def replay(jobs, stages, pools, executors, commitments, metas, links, rows, durations, log, actions, counts):  # type: ignore[no-untyped-def]
    """Every episode with its own known actions (episodes, most, 2), of which the first `counts` are played."""
    for n in range(len(metas)):
        meta = metas[n : n + 1]
        advance(jobs[n], stages[n], pools[n], executors[n], commitments[n], meta, links, rows, durations, log)
        for k in range(counts[n]):
            decide(
                jobs[n], stages[n], pools[n], executors[n], commitments[n], meta, links, rows, durations, log,
                actions[n, k, 0], actions[n, k, 1],
            )  # fmt: skip


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs, after one that compiles and warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where cjs/tpch lies; generated profiles without")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="runs; the fastest counts")
    options = parser.parse_args()

    # Episodes of the default setting.
    data: SyntheticDags | Tpch = SyntheticDags(name="synthetic_dags", setting="default", seed=0)
    if options.data_dir is not None:
        data = Tpch(name="tpch", setting="default", data_dir=options.data_dir)
    tables, cluster, rule = tabulate(data.profiles()), data.cluster(), fair()
    seeds = np.arange(options.episodes)
    jobs = [cluster.mix.draw(int(seed), data) for seed in seeds]
    fresh = new_state(jobs, seeds, tables, cluster.rules)

    # Fair in the vectorised environment; its decisions are replayed below.
    environment = CjsEnvironment(lambda seed: jobs[seed], tables, cluster.rules)
    actions: list[np.ndarray] = []

    def step_all() -> None:
        actions.clear()
        observation, done = environment.reset(seeds), np.zeros(len(seeds), bool)
        while not done.all():
            actions.append(rule.act(observation))
            observation, _, done = environment.step(actions[-1])

    stepped = fastest(step_all, 1)
    state = environment.state
    decisions, tasks = int(state.meta["decisions"].sum()), int(state.meta["tasks"].sum())
    counts, known = state.meta["decisions"].astype(np.int64), np.stack(actions, 1)
    # Whole episodes in compiled code, the events alone, and a copy of the state.
    whole = fastest(
        lambda: run_rule(new_state(jobs, seeds, tables, cluster.rules), tables, rule.kind, rule.weights),
        options.repeats,
    )
    shared = (tables.links, tables.rows, tables.durations, NO_LOG)
    events = fastest(lambda: replay(*fresh.copy(), *shared, known, counts), options.repeats)
    copying = fastest(lambda: fresh.copy(), 20) / len(seeds)
    print(
        f"{data.name}, {len(seeds)} episodes of {decisions / len(seeds):.0f} decisions and {tasks / len(seeds):.0f} tasks"
    )
    for name, seconds in (
        ("events, known actions, copy of the state", events),
        ("reset, observation, Fair and events", whole),
        ("vectorised environment and Fair", stepped),
    ):
        rates = decisions / seconds, tasks / seconds
        times = [rate / public for rate, public in zip(rates, PUBLIC, strict=True)]
        print(
            f"{name:<42}{rates[0]:>9,.0f} decisions/s {rates[1] / 1e6:5.1f} million tasks/s"
            f"{times[0]:6.0f} and {times[1]:.0f} times the public figures"
        )
    print(f"{'copy of one episode':<42}{copying * 1e6:9.0f} microseconds")


if __name__ == "__main__":
    main()
