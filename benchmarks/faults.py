"""The cost of faults where a fall-back stands below the model: python benchmarks/faults.py RUN --json FILE

RUN is the folder of a finished run, with a bundle. For each of its tasks: the model alone, the fall-back alone, and the
guarded model with each kind of fault in 1, 10 and 100 % of decisions, over the same test episodes. A row says how far its
first metric is from the fall-back's (positive is better), how many decisions were not the model's, and how many sessions came
to their end. Then the time of a decision without and with the net, timed in turns, and the share of ordinary test
observations that the guard calls outside.

An older bundle has neither fall-backs nor a guard: its fall-backs are those of the task, and `--pool FOLDER` (of
`paths.cache_dir`/pools) calibrates the guard, without which odd observations are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import edgenetllm.edge as edge
from edgenetllm.composition import saved_settings
from edgenetllm.config import load_task
from edgenetllm.edge.agent.faults import Faults
from edgenetllm.edge.agent.guarded import Safety, guarded
from edgenetllm.edge.calibrate_guard import calibrate
from edgenetllm.edge.engines.compiled import CompiledSession
from edgenetllm.edge.export import describe_fallbacks
from edgenetllm.edge.policy import Policy
from edgenetllm.experience.pool import read_pool
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.stages.guarded import GuardedPlayer
from edgenetllm.task_settings import task_names, task_settings
from edgenetllm.tasks.task import Task

RATES = (0.01, 0.1, 1.0)
KINDS = ("raised", "not_finite", "slow", "observation")
BASELINES = {"bba": "bba", "robustmpc": "robustmpc", "fair": "fair", "tuned": "tuned_rule"}
ROUNDS = 5


def load(run: Path, task: Task, pool: Path | None) -> Policy:
    """The policy of a task of a run; what an older bundle lacks is added."""
    policy = edge.load(run / "bundle", task.name)
    extra = dict(policy.extra)
    extra.setdefault("fallback", describe_fallbacks({task.name: task.fallbacks()}))
    if pool is not None:
        extra["guard"] = {task.name: calibrate(read_pool(pool), policy.networks.encoder.inputs)}
    return Policy(policy.task, policy.decoder, policy.networks, extra)


def measure(task: Task, policy: Policy, fallback: str | None, episodes: int, deadline_ms: float) -> dict[str, Any]:
    """The rows of one task."""
    chosen = guarded(policy, Safety(fallback=fallback)).fallback.name
    seeds, metric = task.seeds("test")[:episodes], task.metric
    has_guard = task.name in policy.extra.get("guard", {})

    def mean(played: Episodes) -> float:
        return float(task.summarise(played.record, played.reward, played.valid)[metric.name].mean())

    alone = mean(play(task.environment("test"), seeds, task.baselines()[BASELINES[chosen]]))
    model = mean(play(task.environment("test"), seeds, CompiledSession(policy, "model", None)))
    rows = []
    for kind in KINDS if has_guard else KINDS[:-1]:
        for rate in RATES:
            faults = Faults(kind, rate, slow_ms=2 * deadline_ms)  # type: ignore[arg-type]
            safety = Safety(deadline_ms if kind == "slow" else None, kind == "observation", fallback, faults)
            row = played_row(task, seeds, policy, safety, mean)
            gain = (row["value"] - alone) / abs(alone) * (1 if metric.higher_is_better else -1)
            rows.append({"kind": kind, "rate": rate, **row, "against_fallback": gain})
            print_row(metric.name, rows[-1], alone)
    alarms = played_row(task, seeds, policy, Safety(guard=True), mean)["taken"] if has_guard else None
    times = decision_us(task, policy, seeds, has_guard)
    print(f"  {metric.name}: model {model:.4g}, {chosen} {alone:.4g}; false alarms {alarms}; microseconds {times}")
    return {
        "metric": metric.name, "fallback": chosen, "fallback_alone": alone, "model_alone": model, "rows": rows,
        "false_alarms": alarms, "decision_us": times, "deadline_ms": deadline_ms, "episodes": len(seeds),
    }  # fmt: skip


def played_row(task: Task, seeds: Any, policy: Policy, safety: Safety, mean: Any) -> dict[str, Any]:
    """The guarded model in the test episodes: its metric, and the decisions that the fall-back took by reason."""
    player = GuardedPlayer(guarded(policy, safety), "guarded", None)
    played = play(task.environment("test"), seeds, player)
    reasons = player.columns()["reason"][played.valid]
    events = {str(reason): int((reasons == reason).sum()) for reason in set(reasons) - {None}}
    return {
        "value": mean(played),
        "decisions": len(reasons),
        "events": events,
        "taken": sum(events.values()) / len(reasons),
        "sessions": int(played.valid.any(axis=1).sum()),
    }


def decision_us(task: Task, policy: Policy, seeds: Any, has_guard: bool) -> dict[str, float]:
    """Microseconds of a decision, the median of rounds that are played in turns."""
    makers: dict[str, Any] = {
        "model": policy,
        "guarded": guarded(policy),
        **({"guarded, guard": guarded(policy, Safety(guard=True))} if has_guard else {}),
        "guarded, deadline 1 s": guarded(policy, Safety(deadline_ms=1000)),
    }
    times: Mapping[str, list[float]] = {name: [] for name in makers}
    for number in range(ROUNDS + 1):
        for name, maker in makers.items():
            taken = one_round(task, maker.start(), int(seeds[number % len(seeds)]))
            if number:  # the first compiles
                times[name].append(taken)
    return {name: round(1e6 * median(values), 1) for name, values in times.items()}


def one_round(task: Task, session: Any, seed: int) -> float:
    """The median time of the first decisions of an episode, in seconds."""
    environment, times = task.environment("test"), []
    observation, done = environment.reset(np.array([seed])), np.array([False])
    while not done.all() and len(times) < 40:
        began = time.perf_counter()
        action = session.decide(observation)
        times.append(time.perf_counter() - began)
        observation, reward, done = environment.step(np.asarray(action)[None])
        session.observe(float(reward[0]))
    return median(times)


def print_row(metric: str, row: Mapping[str, Any], alone: float) -> None:
    events = ", ".join(f"{reason} {count}" for reason, count in row["events"].items())
    print(
        f"  {row['kind']:<12} {row['rate']:>5.0%}  {metric} {row['value']:.4g} ({row['against_fallback']:+.2%} of "
        f"{alone:.4g})  not the model's {row['taken']:.2%} ({events or 'none'}), {row['sessions']} sessions ended",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where data sets lie")
    parser.add_argument("--task", help="of a run of several, only this one")
    parser.add_argument("--fallback", help="bba, robustmpc; of cjs: fair, tuned; default: the first")
    parser.add_argument("--episodes", type=int, default=20, help="test episodes")
    parser.add_argument("--deadline-ms", type=float, default=50.0, help="of the rows of a slow engine")
    parser.add_argument("--pool", type=Path, help="an experience pool to calibrate the guard on, of a run of one task")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    settings = saved_settings(arguments.run, {"trust": [], "paths": {"data_dir": str(arguments.data_dir)}})
    figures = {}
    for name in task_names(settings) if arguments.task is None else [arguments.task]:
        task = load_task(task_settings(settings, name))
        print(f"{name}: {arguments.run}", flush=True)
        policy = load(arguments.run, task, arguments.pool)
        figures[name] = measure(task, policy, arguments.fallback, arguments.episodes, arguments.deadline_ms)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
