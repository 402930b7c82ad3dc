"""How many torch threads a run computes with: sums differ by it in their last bits, so that it is part of identities."""

from __future__ import annotations

import os

from edgenetllm.config import Config


def threads_of(config: Config) -> int:
    """`trainer.threads`; where it is null, the cores of a job, shared by the processes of a fit on several devices."""
    if config.trainer.threads is not None:
        return config.trainer.threads
    return max(1, threads_of_a_job(config.launcher.per_machine) // (config.trainer.devices or 1))


def threads_of_a_job(per_machine: int) -> int:
    """OMP_NUM_THREADS where it is set (Ray does); else the cores of this process, shared with other jobs of the machine."""
    typed = os.environ.get("OMP_NUM_THREADS", "")
    if typed.isdecimal() and int(typed) > 0:
        return int(typed)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // per_machine)
