"""How a run computes: processes, torch threads and number format.

Sums differ by them in their last bits, so that they are part of identities.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from edgenetllm.errors import UserError
from edgenetllm.launched import launched
from edgenetllm.sections import Settings


@dataclass(frozen=True)
class Compute:
    """The devices, ranks, threads and number format that the options of Trainer and launcher come to on this machine."""

    devices: int  # processes of a fit on this machine
    ranks: int  # processes of a fit on all of its machines
    threads: int  # of the process that plays, prunes and fits on one device
    rank_threads: int  # of each process of a fit
    bf16: bool  # whether the backbone is multiplied in bfloat16
    gpus: int | None  # of this machine; None: the run asks for none

    def check_devices(self) -> None:
        """Raises UserError where a fit wants more GPUs than this machine has."""
        if self.gpus is not None and self.devices > self.gpus:
            raise UserError(f"trainer.devices={self.devices}: this machine has {self.gpus} GPUs that torch can use")


def compute_of(settings: Settings) -> Compute:
    """The decision, from what was typed, what torchrun or srun has given, and what this machine has."""
    trainer = settings.trainer
    gpus = torch.cuda.device_count() if trainer.accelerator == "gpu" else None
    devices = trainer.devices or gpus or 1  # without a number, one for each GPU
    threads = trainer.threads or _threads_of_a_job(settings.launcher.per_machine)
    launch = launched()
    given = None if launch is None else launch.threads
    return Compute(
        devices=devices,
        ranks=devices * trainer.num_nodes,
        threads=threads,
        rank_threads=trainer.threads or given or max(1, threads // devices),
        bf16=_bf16(trainer.precision, trainer.accelerator),
        gpus=gpus,
    )


def _bf16(precision: str, accelerator: str) -> bool:
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_bf16_supported() if accelerator == "gpu" else bool(torch.cpu._is_avx512_bf16_supported())


def _threads_of_a_job(per_machine: int) -> int:
    """OMP_NUM_THREADS where it is set (Ray does); else the cores of this process, shared with other jobs of the machine."""
    typed = os.environ.get("OMP_NUM_THREADS", "")
    if typed.isdecimal() and int(typed) > 0:
        return int(typed)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // per_machine)
