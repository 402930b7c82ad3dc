"""How many torch threads a run computes with: sums differ by it in their last bits, so that it is part of identities."""

from __future__ import annotations

import os

from edgenetllm.config import Built


def threads_of(config: Built) -> int:
    """Threads of the process that plays, prunes and fits on one device: `trainer.threads`, or the cores of a job."""
    return config.trainer.threads or threads_of_a_job(config.launcher.per_machine)


def threads_of_a_rank(config: Built) -> int:
    """Threads of each process of a fit: `trainer.threads`, or the cores of a job, shared by its processes."""
    if config.trainer.threads is not None:
        return config.trainer.threads
    return max(1, threads_of(config) // (config.trainer.devices or 1))


def threads_of_a_job(per_machine: int) -> int:
    """OMP_NUM_THREADS where it is set (Ray does); else the cores of this process, shared with other jobs of the machine."""
    typed = os.environ.get("OMP_NUM_THREADS", "")
    if typed.isdecimal() and int(typed) > 0:
        return int(typed)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // per_machine)
