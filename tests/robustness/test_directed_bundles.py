"""Manifests that ask for too much, for the network, or for what is not there: refused before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contained import campaign, check
from hostile_bundles import Files, bundles, sealed
from small import make_task
from variants import export, make

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import MAX_MANIFEST_BYTES
from edgenetllm.edge.engine import load_backbone, load_policy
from edgenetllm.errors import NotFinite, UserError
from edgenetllm.models.session import Session

MODELS: list[dict[str, Any]] = [
    *({"num_hidden_layers": number} for number in (0, 2, 4, 10_000, 10**9, 10**30, -1, 2.5, "3", None, [3])),
    *({"num_labels": number} for number in (100_000_000, -1, "x")),
    *({"num_attention_heads": number} for number in (10**6, 10**9, 0, -4)),
    *({"intermediate_size": number} for number in (10**9, 10**12, 0)),
    *({"hidden_size": number} for number in (10**9, 10**12, 0, 33)),
    *({"max_position_embeddings": number} for number in (10**9, 10**13)),
    *({"vocab_size": number} for number in (10**9, 10**13)),
    *(
        {"model_type": kind}
        for kind in ("detr", "timm_wrapper", "bert", "t5", "mamba", "gpt_neo", "nonsense", "", None, 7)
    ),
    {"attn_implementation": "kernels-community/flash-attn"},
    {"_attn_implementation": "kernels-community/flash-attn"},
    {"_attn_implementation_internal": "kernels-community/flash-attn"},
    {"experts_implementation": "kernels-community/megablocks"},
    {"auto_map": {"AutoModel": "somebody/model--modeling.Model"}},
    {"backbone": "resnet50", "use_timm_backbone": True},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    {"quantization_config": {"quant_method": "awq"}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 1e300, "rope_theta": 1e-300}},
    {
        "rope_parameters": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 100_000,
            "long_factor": [1.0],
            "rope_theta": 1.0,
        }
    },
    {"rope_parameters": {"rope_type": "yarn", "factor": 0, "rope_theta": 10000.0}},
    {"id2label": {str(number): "x" for number in range(100_000)}},
    {"layer_types": ["full_attention"] * 100_000},
    {"head_dim": 10**9},
    {"hidden_act": "nonsense"},
    {"hidden_act": "x" * 100_000},
    {"name_or_path": "/etc/passwd"},
    {"text_config": {"model_type": "llama", "num_hidden_layers": 10**9}},
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return bundles(tmp_path_factory.mktemp("bundles"))[0]


def written(files: Files, folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def of_task(folder: Path) -> Any:
    return load_policy(folder, make_task())


@pytest.mark.robustness
@pytest.mark.parametrize("load", [edge.load, load_backbone, of_task], ids=["edge", "backbone", "torch"])
def test_models_that_ask_for_too_much(files, load: Callable[[Path], Any]):
    manifest = json.loads(files["manifest.json"])

    def attempt(number: int, folder: Path) -> None:
        model = manifest["model"] | MODELS[number]
        load(written({**files, "manifest.json": sealed({**manifest, "model": model})}, folder))

    tally = campaign("models that ask for too much", range(len(MODELS)), attempt)
    check(tally)
    assert tally.ends["refused"] > len(MODELS) / 2


@pytest.mark.robustness
def test_manifests_that_are_too_large(files, tmp_path):
    manifest = json.loads(files["manifest.json"])
    deep: Any = 0
    for _ in range(40):
        deep = [deep]
    for changed, message in (
        ({"extra": {**manifest["extra"], "deep": deep}}, "objects within more than 32 others"),
        ({"metrics": {"numbers": [0] * 300_000}}, "more than 262144 values"),
        ({"metrics": {"text": "x" * MAX_MANIFEST_BYTES}}, "too large for a manifest"),
    ):
        folder = written({**files, "manifest.json": sealed({**manifest, **changed})}, tmp_path)
        with pytest.raises(UserError, match=message):
            edge.load(folder)


@pytest.mark.robustness
def test_weights_are_finite_and_decisions_are_not(tmp_path):
    policy = make(make_task())
    with torch.no_grad():
        policy.networks("abr").head.linear.weight.fill_(3e38)
        policy.networks("abr").head.linear.weight[::2] = -3e38
    folder = export(policy, tmp_path / "head")
    with pytest.raises(UserError, match="task abr cannot decide even on zeros"):
        edge.load(folder)
    with torch.no_grad():
        policy.decoder.norm.weight.fill_(3e38)
    with pytest.raises(UserError, match="task abr cannot decide even on zeros"):
        edge.load(export(policy, tmp_path / "decoder"))


@pytest.mark.robustness
def test_torch_does_not_play_what_is_not_finite(tmp_path):
    """The first of NaN logits would be the lowest quality, decision after decision."""
    task = make_task()
    policy = make(task)
    with torch.no_grad():
        policy.networks("abr").head.linear.bias[2] = float("inf")
    environment = task.environment("train")
    observation = environment.reset(np.arange(2))
    for seed in (None, 1):
        session = Session(policy, 1.0, "sparse", sample_seed=seed)
        session.start(2)
        with pytest.raises(NotFinite, match="logits of a decision are not finite"):
            session.act(observation)
