"""GPUs of one machine for the worker processes of `launcher=joblib`: each worker keeps one for as long as it lives.

A process cannot change its GPU once it has used one, and a worker runs many jobs: so a GPU belongs to a worker, not to a job.
SLURM and Ray give each job its GPUs themselves, in CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from edgenetllm.errors import UserError

_held: dict[str, FileLock] = {}  # of this process


def claim_gpu(gpus: int, jobs: int, folder: Path) -> None:
    """Set CUDA_VISIBLE_DEVICES to one of `gpus` GPUs, the i-th of `jobs` workers to number i modulo `gpus`.

    Workers find their number by lock files in `folder`, which the system frees when a worker dies. 0 GPUs: nothing is set.
    """
    if gpus == 0 or _held:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(number) for number in range(gpus)]
    if len(devices) < gpus:
        raise UserError(f"launcher.gpus={gpus}: CUDA_VISIBLE_DEVICES={visible} has fewer")
    folder.mkdir(parents=True, exist_ok=True)
    for worker in range(jobs):
        lock = FileLock(folder / f".worker{worker}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _held["worker"] = lock
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker % gpus]
        return
    raise UserError(f"launcher.jobs={jobs}: more jobs than that run at the same time")
