"""One layer of the real SmolLM2 with what it really sees of an experience pool."""

from __future__ import annotations

import pytest
import torch
import yaml
from small import ROOT, make_task

from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.backbone import WheelBackbone
from edgenetllm.models.decoder import blocks, prunable_layers
from edgenetllm.models.policy import build_policy
from edgenetllm.pruning import alps, magnitude, ria, sparsegpt, wanda
from edgenetllm.pruning.calibration import record_inputs, watch


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Weights and gram matrices of the first block's matrices, on 16 episodes of the task's teacher."""
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    folder = ROOT / "data" / "cache" / "backbones"
    backbone = WheelBackbone(**{**settings, "folder": folder, "layers": 1}).load()
    task = make_task()
    torch.manual_seed(0)
    policy = build_policy(backbone.decoder, {task.name: task}, backbone.embedding_rms).eval()
    pool = collect(task, [PoolEntry("teacher", 16)], seed=0, folder=tmp_path_factory.mktemp("pool"), workers=1)
    batches = PoolDataModule(
        {task.name: task}, {task.name: pool}, batch_size=8, batches_per_epoch=1, seed=0
    ).calibration_batches(16, 8)
    states = tmp_path_factory.mktemp("states")
    inputs = record_inputs(policy.decoder, batches, policy.calibration_step, policy.calibration_mask, states)
    layers = prunable_layers(policy.decoder)
    found = watch(blocks(policy.decoder)[0], layers, inputs, "gram")
    return {name: (layer.weight.data, found[name].statistic) for name, layer in layers.items()}


def relative_error(pruned, weight, gram) -> float:
    difference = (pruned - weight).double()
    return float(((difference @ gram.double()) * difference).sum() / ((weight.double() @ gram.double()) * weight).sum())


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"])
def test_reconstruction_error_is_ordered(seen, name):
    weight, gram = seen[f"layers.0.{name}"]
    squares = gram.diagonal()
    error = {
        "magnitude": relative_error(magnitude.prune(weight, 0.5), weight, gram),
        "wanda": relative_error(wanda.prune(weight, squares, 0.5), weight, gram),
        "ria": relative_error(ria.prune(weight, squares, 0.5), weight, gram),
        "sparsegpt": relative_error(sparsegpt.prune(weight, gram, 0.5), weight, gram),
    }
    assert error["sparsegpt"] <= error["wanda"] <= error["magnitude"], error
    assert error["ria"] <= error["magnitude"], error


@pytest.mark.parametrize("name", ["self_attn.q_proj", "mlp.down_proj"])
def test_alps_earns_its_place_at_high_sparsity(seen, name):
    weight, gram = seen[f"layers.0.{name}"]
    error = {
        method.__name__: relative_error(method.prune(weight, gram, 0.9), weight, gram) for method in (alps, sparsegpt)
    }
    assert error["edgenetllm.pruning.alps"] < 0.5 * error["edgenetllm.pruning.sparsegpt"], error
