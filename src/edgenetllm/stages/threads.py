"""The number of processes of a fit, and of the torch threads that a run computes with.

Sums differ by both in their last bits, so that they are part of identities.
"""

from __future__ import annotations

import os

import torch

from edgenetllm.config import Built
from edgenetllm.launched import launched


def devices_of(config: Built) -> int:
    """Processes of a fit on this machine: `trainer.devices`, or one for each of its GPUs."""
    gpus = torch.cuda.device_count() if config.trainer.accelerator == "gpu" else 0
    return config.trainer.devices or gpus or 1


def ranks_of(config: Built) -> int:
    """Processes of a fit on all of its machines."""
    return devices_of(config) * config.trainer.num_nodes


def threads_of(config: Built) -> int:
    """Threads of the process that plays, prunes and fits on one device: `trainer.threads`, or the cores of a job."""
    return config.trainer.threads or threads_of_a_job(config.launcher.per_machine)


def threads_of_a_rank(config: Built) -> int:
    """Threads of each process of a fit: `trainer.threads`, or what torchrun or srun gave to it, or the cores of a job, shared
    by its processes."""
    if config.trainer.threads is not None:
        return config.trainer.threads
    launch = launched()
    if launch is not None and launch.threads is not None:
        return launch.threads
    return max(1, threads_of(config) // devices_of(config))


def threads_of_a_job(per_machine: int) -> int:
    """OMP_NUM_THREADS where it is set (Ray does); else the cores of this process, shared with other jobs of the machine."""
    typed = os.environ.get("OMP_NUM_THREADS", "")
    if typed.isdecimal() and int(typed) > 0:
        return int(typed)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // per_machine)
