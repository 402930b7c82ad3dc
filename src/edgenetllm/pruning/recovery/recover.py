"""Run a recovery, check that no zero was filled, and measure its cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from edgenetllm.models.decoder import prunable_layers
from edgenetllm.option_types import Text
from edgenetllm.pruning.method import non_default_options

if TYPE_CHECKING:  # Lightning takes seconds to import, and options are checked before
    from lightning.pytorch.loggers import Logger

    from edgenetllm.experience.datamodule import PoolDataModule
    from edgenetllm.experience.pool import Pool
    from edgenetllm.models.policy import PolicyNetwork
    from edgenetllm.tasks.task import Task


@dataclass
class RecoveryContext:
    """The inputs of a recovery other than the two models: each task's training pool, and how to compute."""

    tasks: Mapping[str, Task]
    pools: Mapping[str, Pool]
    seed: int
    task_weights: Mapping[str, float] | None = None  # of the tasks in a batch, relative to each other; None: equal
    accelerator: str = "cpu"
    bf16: bool = False  # multiply in bfloat16
    progress: bool = True
    loggers: Sequence[Logger] = ()

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def data(self, batch_size: int, batches: int) -> PoolDataModule:
        from edgenetllm.experience.datamodule import PoolDataModule

        data = PoolDataModule(
            self.tasks,
            self.pools,
            batch_size=batch_size,
            batches_per_epoch=batches,
            seed=self.seed + 1_000_003,
            task_weights=self.task_weights,
        )
        data.setup()
        return data

    def windows(self, number: int, batch_size: int) -> Sequence[Mapping[str, Any]]:
        """`number` sequences of all pools, a function of the seed alone."""
        return self.data(number, 1).calibration_batches(number, batch_size)


class Recovery(Protocol):
    """A recovery method, one choice of `recovery=`."""

    name: str

    def recover(self, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext) -> int:
        """Recover the sparse `policy` in place, `dense` being its parent; returns the number of parameters it trained."""
        ...


@checked(config=ConfigDict(extra="forbid"))
class NoRecovery:
    """Options of `recovery=none`: nothing is recovered."""

    name: Text = "none"

    def recover(self, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext) -> int:
        return 0


def recover(
    recovery: Recovery, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext
) -> dict[str, Any] | None:
    """Recover `policy` in place and return the cost, for `results.json`; None where nothing was to be done.

    Raises RuntimeError if a zero of the backbone was filled.
    """
    if isinstance(recovery, NoRecovery):
        return None
    zeros = {name: layer.weight == 0 for name, layer in prunable_layers(policy.decoder).items()}
    began = time.perf_counter()
    with peak_memory(on_gpu=context.accelerator == "gpu") as peak:
        trained = recovery.recover(policy, dense, context)
    policy.requires_grad_(False).eval()
    seconds = time.perf_counter() - began
    check_zeros(policy, zeros)
    return {
        "method": recovery.name,
        "label": " ".join([recovery.name, *non_default_options(recovery)]),
        "trained_parameters": trained,
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak[0] / 1e6),
    }


def check_zeros(policy: PolicyNetwork, zeros: dict[str, Tensor]) -> None:
    """Raises RuntimeError unless every weight that was zero still is: layer -> mask in the layout of its weight."""
    for name, layer in prunable_layers(policy.decoder).items():
        if bool((layer.weight.data[zeros[name]] != 0).any()):
            raise RuntimeError(f"recovery filled zeros of {name}: a bug, its masks must be kept")


@contextmanager
def peak_memory(on_gpu: bool = False) -> Iterator[list[int]]:
    """The most memory in use while open, in bytes: of the CUDA device, or of this process (sampled)."""
    peak = [0]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated()
        return
    process, stop = psutil.Process(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    peak[0] = process.memory_info().rss
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
