"""The whole backbone at once: what is pruned, what is not, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from small import ARCHITECTURES, make_policy

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import Share, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.decoder import linear_layers, weight_out_in
from edgenetllm.pruning.calibration import input_sum_of_squares
from edgenetllm.pruning.oneshot import Pruning, assert_sparsity, layer_report, prune_policy


@pytest.fixture
def batches(task, tmp_path):
    pool = collect(task, [Share("bba", 6)], seed=0, folder=tmp_path, workers=1)
    return PoolDataModule(task, pool, batch_size=2, batches_per_epoch=1, seed=0).calibration_batches(6, batch_size=4)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_matrices_are_pruned_exactly_and_nothing_else_changes(task, batches, architecture, method):
    policy = make_policy(task, architecture)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    report = prune_policy(policy, Pruning(method), 0.4, batches)
    matrices = {f"decoder.{name}.weight" for name in linear_layers(policy.decoder)}
    assert len(report) == len(matrices)
    for row in report:
        assert row.zeros == round(0.4 * row.weights)
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in matrices)


def test_sparsity_zero_changes_no_bit(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    before = copy.deepcopy(policy.state_dict())
    prune_policy(policy, Pruning("wanda"), 0.0, batches)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_statistics_are_the_inputs_of_each_layer_and_stream(task, batches, architecture):
    """One layer against a direct computation; the same sums from one batch as from two."""
    policy = make_policy(task, architecture)
    name, layer = list(linear_layers(policy.decoder).items())[-1]
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))

    def forward(batch):
        return policy.hidden(batch["observation"], batch["return_to_go"], batch["action"])

    def tokens(batch):
        return batch["valid"].repeat_interleave(3, dim=1)

    sums = input_sum_of_squares(policy.decoder, batches, forward, tokens)
    handle.remove()
    torch.testing.assert_close(sums[name], torch.cat(seen).pow(2).sum(0))
    assert sums[name].shape == (weight_out_in(layer).shape[1],)
    assert set(sums) == set(linear_layers(policy.decoder))


def test_padding_does_not_count(task, batches):
    """Steps after the end of an episode, whatever stands there, leave the masks as they are."""
    pruned = []
    for noise in (0.0, 5.0):
        for batch in batches:
            batch["valid"][:, 30:] = False
            batch["return_to_go"][:, 30:] = noise
        policy = make_policy(task, ARCHITECTURES["llama"])
        prune_policy(policy, Pruning("wanda"), 0.4, batches)
        pruned.append(policy.state_dict())
    assert all(torch.equal(value, pruned[1][name]) for name, value in pruned[0].items())


def test_a_pruned_backbone_is_not_pruned_again(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    prune_policy(policy, Pruning("magnitude"), 0.4, [])
    with pytest.raises(UserError, match="pruned already"):
        prune_policy(policy, Pruning("magnitude"), 0.6, [])


def test_calibrated_methods_need_batches_and_say_so(task):
    with pytest.raises(UserError, match=r"pruning\.windows"):
        prune_policy(make_policy(task, ARCHITECTURES["llama"]), Pruning("wanda"), 0.4, [])


def test_a_lost_zero_is_noticed(task):
    policy = make_policy(task, ARCHITECTURES["llama"])
    prune_policy(policy, Pruning("magnitude"), 0.4, [])
    assert_sparsity(policy.decoder, 0.4)
    layer = next(iter(linear_layers(policy.decoder).values()))
    layer.weight.data[layer.weight == 0] = 1.0
    with pytest.raises(UserError, match="zeros"):
        assert_sparsity(policy.decoder, 0.4)
    assert layer_report(policy.decoder)[0].zeros == 0
