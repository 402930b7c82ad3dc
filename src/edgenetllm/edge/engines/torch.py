"""Engine `torch`: transformers on the decompressed float32 matrices, with a KV cache. The reference of all engines."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.engines.engine import Engine, Name
from edgenetllm.models.session import Session
from edgenetllm.tasks.task import Task


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class TorchEngine(Engine):
    """Every architecture that transformers builds, adapters included, on the device of the run."""

    name: Name = "torch"

    def load(self, bundle: Path, task: Task, sample_seed: int | None = None) -> Session:
        return Session(*load_policy(bundle, task), "sparse", sample_seed)
