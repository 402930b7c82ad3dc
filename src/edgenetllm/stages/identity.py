"""Names by content: a hash of everything that determines a result, so that it is computed once and found again."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from edgenetllm.config import Config
from edgenetllm.run import LOCATIONS, Run
from edgenetllm.source_hash import source_hash
from edgenetllm.tasks.task import LEARNT_FROM

ADAPTING = ("task", "data", "model", "adapter", "experience", "budget", "trainer", "callbacks", "evaluation", "seed")
IRRELEVANT = {  # keys that change no weight and no decision
    "task": ("test",),
    "data": ("recorded",),  # jobs of test episodes
    "trainer": ("name", "threads", "strategy", "devices", "accumulate", "gradient_checkpointing"),  # the same sums
    "experience": ("workers",),
    "callbacks": ("progress_bar",),
    "evaluation": ("plots", "validation", "sample", "sample_seed", "bounds"),
}
LIBRARIES = ("torch", "transformers", "peft", "lightning")
CODE = (
    "tasks",
    "experience",
    "models",
    "edge/replay.py",
    "stages/adaptation.py",
    "stages/rank.py",
    "stages/ranks.py",
)  # what an adaptation or a replay runs


def adaptation_hash(config: Config, run: Run, computed_in_bf16: bool) -> str:
    """Of the data, the settings and the code that an adaptation depends on."""
    settings = {group: without(run.settings[group], (*IRRELEVANT.get(group, ()), *LOCATIONS)) for group in ADAPTING}
    return _digest(
        {
            "settings": settings,
            "weights": config.model.fingerprint(),
            "bf16": computed_in_bf16,
            "data": config.task.data_hash(LEARNT_FROM),
            "code": source_hash(*CODE),
            "versions": {name: metadata.version(name) for name in LIBRARIES},
        }
    )


def improvement_hash(config: Config) -> str:
    """Of the data, the options and the code that a policy improved in the simulator depends on."""
    return _digest(
        {
            "improver": repr(config.experience.improvement),
            "teacher": repr(config.task.teacher()),
            "seed": config.pool_seed,
            "data": config.task.data_hash(LEARNT_FROM),
            "code": source_hash("tasks"),
            "versions": {name: metadata.version(name) for name in ("torch", "numpy", "cmaes")},
        }
    )


def replay_hash(config: Config, run: Run, split: str, policy: dict[str, Any]) -> str:
    """Of a policy (whatever identifies it; none for bounds) and of the episodes that it plays."""
    settings = {group: without(run.settings[group], LOCATIONS) for group in ("task", "data")}
    return _digest(
        {
            "settings": settings,
            "split": split,
            "policy": policy,
            "data": config.task.data_hash(),
            "code": source_hash(*CODE),
        }
    )


def trained_hash(checkpoint: Path) -> str:
    """Of the trained tensors in a checkpoint, whatever else is stored beside them."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def without(node: Any, keys: tuple[str, ...]) -> Any:
    """`node` without these keys, also inside, where a group has a node for each of several tasks."""
    return (
        {key: without(value, keys) for key, value in node.items() if key not in keys}
        if isinstance(node, dict)
        else node
    )


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]
