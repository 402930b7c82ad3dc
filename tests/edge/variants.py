"""Small tasks of every kind of encoder and head that the edge knows, and their bundles."""

from __future__ import annotations

from pathlib import Path

import torch
from small import ARCHITECTURES, make_task

from edgenetllm.edge.export import export_policy
from edgenetllm.models.decoder import build_decoder, prunable_layers
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask
from edgenetllm.tasks.task import Task

LADDER = {"bitrates_kbps": [250.5, 700.0, 1500.0, 4000.0], "chunk_s": 6.0, "chunks": 20}


def abr(tokens: str = "fused", features: str = "raw", **video: object) -> AbrTask:
    data = Synthetic(name="synthetic", seed=3, seconds=320, train=20, val=6, test=8, **video)  # type: ignore[arg-type]
    return AbrTask("abr", data, Path("data"), "lin", tokens, noise=True, temperature=0.1, features=features)  # type: ignore[arg-type]


def cjs(tokens: str = "pointer") -> CjsTask:
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    return CjsTask("cjs", data, tokens, window=5, segment=16, validation=3, test=4)  # type: ignore[arg-type]


TASKS = {
    "fused": lambda: make_task(),
    "history": lambda: abr(features="history"),
    "plain": lambda: abr(features="plain"),
    "per_feature": lambda: abr("per_feature"),
    "per_feature_plain": lambda: abr("per_feature", "plain"),
    "ladder": lambda: abr(**LADDER),
    "ladder_per_feature": lambda: abr("per_feature", "plain", **LADDER),
    "pointer": lambda: cjs(),
    "per_stage": lambda: cjs("per_stage"),
}


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights of which every one matters: none is zero, logits are apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def make(*tasks: Task, architecture: str = "llama", seed: int = 0, spread: bool = True) -> PolicyNetwork:
    """A policy of these tasks around a tiny decoder, with random task networks."""
    torch.manual_seed(seed)
    policy = build_policy(
        build_decoder(dict(ARCHITECTURES[architecture])), {task.name: task for task in tasks}, 0.5
    ).eval()
    if spread:
        for name in policy.tasks:
            networks = policy.networks(name)
            randomise(networks.encoder, seed)
            randomise(networks.head, seed + 1)
            torch.nn.init.normal_(networks.norm.bias, std=0.1)
            torch.nn.init.normal_(networks.norm.weight, mean=1, std=0.1)
    return policy


def export(policy: PolicyNetwork, folder: Path, **options: object) -> Path:
    """The bundle of a policy, its matrices in float32 unless `options` say otherwise."""
    matrices = [f"decoder.{name}" for name in prunable_layers(policy.decoder)]
    targets = {name: -3.0 if name == "cjs" else 40.0 for name in policy.tasks}
    settings = {
        "values": "fp32",
        "matrices": matrices,
        "adapter": None,
        "target_returns": targets,
        "parent": {},
        **options,
    }
    export_policy(policy, folder, **settings)  # type: ignore[arg-type]
    return folder
