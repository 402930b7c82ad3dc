"""Replay: policies over the same episodes of a split, every decision kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.progress import tqdm
from edgenetllm.tasks.task import Baseline, Split, Task


def replay(task: Task, split: Split, policies: Mapping[str, Baseline], progress: bool = True) -> dict[str, Episodes]:
    """Every policy plays every episode of `split` once, all episodes side by side."""
    results = {}
    with tqdm(total=len(policies) * task.max_steps, desc=f"replay {split}", unit="step", disable=not progress) as bar:
        for number, (name, policy) in enumerate(policies.items()):
            bar.set_postfix_str(name)
            results[name] = play(task.environment(split), task.seeds(split), policy, on_step=bar.update)
            bar.total = (bar.n // (number + 1)) * len(policies)  # what an episode really took, instead of the estimate
    return results


def decision_times(task: Task, split: Split, policy: Baseline, decisions: int) -> list[float]:
    """Milliseconds of single decisions, one episode at a time (batch 1), `decisions` of them if there are."""
    times: list[float] = []
    for seed in task.seeds(split):
        if len(times) >= decisions:
            break
        episode = play(task.environment(split), np.array([seed]), policy, limit=decisions - len(times))
        times.extend(episode.decision_ms)
    return times
