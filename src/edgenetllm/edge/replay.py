"""Replay: policies over the same episodes of a split, every decision kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from joblib import delayed

from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.option_types import Backend
from edgenetllm.parallel import parallel
from edgenetllm.progress import tqdm
from edgenetllm.tasks.task import Policy, Split, Task


def replay(
    task: Task,
    split: Split,
    policies: Mapping[str, Policy],
    progress: bool = True,
    workers: int = 1,
    backend: Backend = "joblib",
) -> dict[str, Episodes]:
    """Every policy plays every episode of `split` once, all episodes side by side.

    With `backend="ray"` the policies play on the Ray cluster, `workers` at a time, but for language models, which play here:
    their device and their threads are those of this process. Raises UserError for a cluster that cannot be used.
    """
    # A session of torch or of an engine, unlike other policies, has `decide`.
    away = {name: policy for name, policy in policies.items() if backend == "ray" and not hasattr(policy, "decide")}
    results = _replay_elsewhere(task, split, away, progress, workers, backend) if away else {}
    results |= _replay_here(task, split, {name: policies[name] for name in policies if name not in away}, progress)
    return {name: results[name] for name in policies}


def _replay_elsewhere(
    task: Task, split: Split, policies: Mapping[str, Policy], progress: bool, workers: int, backend: Backend
) -> dict[str, Episodes]:
    """Replay in other processes; all episodes of a policy are one piece of work, as they are in this process."""
    pieces = [delayed(_play_all)(task, split, policy) for policy in policies.values()]
    with parallel(workers, backend) as compute:
        played = tqdm(compute(pieces), total=len(pieces), desc=f"replay {split}", unit="policy", disable=not progress)
        return dict(zip(policies, played, strict=True))


def _play_all(task: Task, split: Split, policy: Policy) -> Episodes:
    return play(task.environment(split), task.seeds(split), policy)


def _replay_here(task: Task, split: Split, policies: Mapping[str, Policy], progress: bool) -> dict[str, Episodes]:
    results: dict[str, Episodes] = {}
    with tqdm(total=len(policies) * task.max_steps, desc=f"replay {split}", unit="step", disable=not progress) as bar:
        for number, (name, policy) in enumerate(policies.items()):
            bar.set_postfix_str(name)
            results[name] = play(task.environment(split), task.seeds(split), policy, on_step=bar.update)
            bar.total = (bar.n // (number + 1)) * len(policies)  # what an episode really took, instead of the estimate
    return results


def decision_times(task: Task, split: Split, policy: Policy, decisions: int) -> list[float]:
    """Milliseconds of single decisions, one episode at a time (batch 1), at most `decisions` of them."""
    times: list[float] = []
    for seed in task.seeds(split):
        if len(times) >= decisions:
            break
        episode = play(task.environment(split), np.array([seed]), policy, limit=decisions - len(times))
        times.extend(episode.decision_ms)
    return times
