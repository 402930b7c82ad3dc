"""Each recovery on a small sparse policy: zeros stay zero, what may change changes, and the loss falls."""

from __future__ import annotations

import copy

import pytest
import torch
from small import ARCHITECTURES, make_policy

from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.export import export_policy
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.models.decoder import prunable_layers
from edgenetllm.pruning.oneshot import prune_module
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.bias_norm import BiasNorm
from edgenetllm.pruning.recovery.masked_lora import MaskedLora
from edgenetllm.pruning.recovery.reconstruct import Reconstruct
from edgenetllm.pruning.recovery.recover import NoRecovery, RecoveryContext, check_zeros, recover
from edgenetllm.pruning.recovery.specialise import Specialise
from edgenetllm.pruning.wanda import Wanda

RECOVERIES = {
    "specialise": Specialise(steps=12, lr=5e-3),
    "bias_norm": BiasNorm(steps=12, lr=2e-2),
    "masked_lora": MaskedLora(rank=4, steps=12, lr=1e-2),
    "reconstruct": Reconstruct(windows=6, batch_size=2, epochs=6, lr=1e-3),
}


@pytest.fixture
def context(task, tmp_path) -> RecoveryContext:
    pool = collect(task, [PoolEntry("bba", 12)], seed=0, folder=tmp_path, workers=1)
    return RecoveryContext({task.name: task}, {task.name: pool}, seed=1, progress=False)


def pruned_pair(task, architecture, context):
    dense = make_policy(task, architecture)
    sparse = copy.deepcopy(dense)
    report = prune_module(sparse, Pruning(Wanda()), 0.7, context.windows(6, 3), progress=False)
    return dense, sparse, report


def loss(policy, context) -> float:
    with torch.no_grad():
        return sum(float(policy.loss(batch, batch["observation"])) for batch in context.windows(12, 6))


@pytest.mark.parametrize("name", RECOVERIES)
def test_the_mask_survives_recovery_and_the_bundle(task, architecture, context, name, tmp_path):
    dense, sparse, report = pruned_pair(task, architecture, context)
    masks = {n: layer.weight == 0 for n, layer in prunable_layers(sparse.decoder).items()}
    before = {n: p.clone() for n, p in sparse.named_parameters()}
    began = loss(sparse, context)
    facts = recover(RECOVERIES[name], sparse, dense, context)
    for n, layer in prunable_layers(sparse.decoder).items():
        assert torch.equal(layer.weight == 0, masks[n]), n
    changed = {n for n, p in sparse.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= touched(name, sparse)
    assert len(changed) > len(touched(name, sparse)) / 2
    assert facts["trained_parameters"] > 0
    assert facts["seconds"] > 0
    assert facts["peak_memory_mb"] > 100
    if name != "reconstruct":
        assert loss(sparse, context) < began
    matrices = [f"decoder.{row.name}" for row in report]
    options = {"matrices": matrices, "adapter": None, "values": "fp32", "target_returns": {"abr": 1.0}, "parent": {}}
    export_policy(sparse, tmp_path / "bundle", **options)
    loaded, _ = load_policy(tmp_path / "bundle", task)
    for n, layer in prunable_layers(loaded.decoder).items():
        assert torch.equal(layer.weight == 0, masks[n]), n
    assert all(torch.equal(value, sparse.state_dict()[n]) for n, value in loaded.state_dict().items())


def touched(name: str, policy) -> set[str]:
    """The parameters that a recovery may change."""
    matrices = {f"decoder.{n}.weight" for n in prunable_layers(policy.decoder)}
    decoder = {n for n in dict(policy.named_parameters()) if n.startswith("decoder.")}
    if name in ("masked_lora", "reconstruct"):
        return matrices
    return decoder - matrices if name == "bias_norm" else set(dict(policy.named_parameters())) - decoder


def test_reconstruction_brings_the_blocks_closer_to_the_dense_ones(task, architecture, context):
    dense, sparse, _ = pruned_pair(task, architecture, context)
    batches = context.windows(12, 6)

    def distance() -> float:
        with torch.no_grad():
            return sum(
                float(
                    (
                        sparse.hidden(sparse.encoder.embed(b["observation"]), b["return_to_go"], b["action"])
                        - dense.hidden(dense.encoder.embed(b["observation"]), b["return_to_go"], b["action"])
                    )
                    .square()
                    .mean()
                )
                for b in batches
            )

    began = distance()
    recover(RECOVERIES["reconstruct"], sparse, dense, context)
    assert distance() < 0.9 * began


def test_none_does_nothing(task, context):
    dense, sparse, _ = pruned_pair(task, ARCHITECTURES["llama"], context)
    before = copy.deepcopy(sparse.state_dict())
    assert recover(NoRecovery(), sparse, dense, context) is None
    assert all(torch.equal(value, before[name]) for name, value in sparse.state_dict().items())


def test_a_filled_zero_is_a_loud_error(task, context):
    _, sparse, _ = pruned_pair(task, ARCHITECTURES["llama"], context)
    zeros = {n: layer.weight == 0 for n, layer in prunable_layers(sparse.decoder).items()}
    check_zeros(sparse, zeros)
    name, layer = next(iter(prunable_layers(sparse.decoder).items()))
    layer.weight.data[zeros[name]] = 1e-9
    with pytest.raises(RuntimeError, match=name):
        check_zeros(sparse, zeros)
