"""Compensated quantisation: zeros stay, integers are those of the form, and outputs are nearer than by rounding alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_policy

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.callback import ExportBundle
from edgenetllm.edge.compensate import compensated, quantise_policy
from edgenetllm.edge.encoding import INTEGERS, Form, largest_integer
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.quantise import quantise
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.decoder import prunable_layers, weight_out_in
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.wanda import Wanda


def correlated(tokens: int, width: int) -> torch.Tensor:
    """Inputs in which columns say much of each other, as activations do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tokens, 8, generator=generator) @ torch.randn(8, width, generator=generator) + 0.1 * torch.randn(
        tokens, width, generator=generator
    )


@pytest.mark.parametrize("dtype", ["I8", "I4"])
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.9])
@pytest.mark.parametrize(("mask", "group"), [("bitmask", 160), ("none", 32)])
def test_outputs_are_nearer(dtype, sparsity, mask, group):
    torch.manual_seed(1)
    weight, inputs = torch.randn(48, 160), correlated(2000, 160)
    weight[torch.rand_like(weight) < sparsity] = 0
    form = Form(dtype, mask, group)
    largest = largest_integer(form, int((weight == 0).sum()))
    rounded = quantise(weight.numpy(), INTEGERS[dtype], group, largest)
    matrix = compensated(weight, inputs.T @ inputs, form)
    assert np.array_equal(matrix.values == 0, weight.numpy() == 0)
    assert np.abs(matrix.values).max() <= largest
    assert np.array_equal(matrix.scales, rounded.scales)
    errors = [float(((inputs @ (torch.from_numpy(one.dense()) - weight).T) ** 2).sum()) for one in (matrix, rounded)]
    assert errors[0] < (0.5 if sparsity < 0.9 else 1.0) * errors[1]


def test_a_gram_matrix_that_is_not_finite_is_refused():
    gram = torch.eye(4)
    gram[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        compensated(torch.ones(2, 4), gram, Form("I8", "none", 4))


@pytest.fixture
def batches(task, tmp_path) -> list:
    pool = collect(task, [PoolEntry("bba", 4)], seed=0, folder=tmp_path / "pool", workers=1)
    return PoolDataModule(
        {task.name: task}, {task.name: pool}, batch_size=2, batches_per_epoch=2, seed=0
    ).calibration_batches(4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_whole_policy_is_nearer_and_stays_as_it_is(task, batches, tmp_path, name):
    policy = make_policy(task, dict(ARCHITECTURES[name]))
    report = OneShotPruning(Wanda(), 0.4, progress=False).apply(policy, batches)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    distances = {}
    for compensate in (False, True):
        export = ExportBundle(tmp_path / "bundle", "int4", compensate=compensate)
        export.write(policy, report, {task.name: 1.0}, batches)
        loaded, _ = load_policy(tmp_path / "bundle", task)
        with torch.no_grad():
            pairs = [(loaded.calibration_step(batch), policy.calibration_step(batch)) for batch in batches]
        distances[compensate] = sum(float((one - other).square().sum()) for one, other in pairs)
        zeros = {key: int((layer.weight == 0).sum()) for key, layer in prunable_layers(loaded.decoder).items()}
        assert zeros == {row.name: row.zeros for row in report}
        assert {entry.dtype for entry in read_bundle(tmp_path / "bundle").manifest.tensors.values()} == {"I4", "F32"}
    assert distances[True] < 0.7 * distances[False]
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


def test_only_the_layers_that_are_named_are_quantised(task, batches):
    policy = make_policy(task, dict(ARCHITECTURES["gpt2"]))
    layers = prunable_layers(policy.decoder)
    chosen = list(layers)[2:4]
    matrices = quantise_policy(policy, batches, chosen, values="int8")
    assert {name: matrix.shape for name, matrix in matrices.items()} == {
        name: tuple(weight_out_in(layers[name]).shape) for name in chosen
    }
