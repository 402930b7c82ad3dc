"""The whole backbone at once: what is pruned, what is not, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from small import ARCHITECTURES, make_policy, prune_by_hooks

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.adapters import Lora
from edgenetllm.models.decoder import prunable_layers, weight_out_in
from edgenetllm.pruning.alps import Alps
from edgenetllm.pruning.magnitude import Magnitude
from edgenetllm.pruning.oneshot import assert_zeros, prune_module, zero_counts
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.random import Random
from edgenetllm.pruning.ria import Ria
from edgenetllm.pruning.sparsegpt import SparseGpt
from edgenetllm.pruning.wanda import Wanda
from edgenetllm.pruning.zero import Zero

METHODS = [Magnitude(), Magnitude("row"), Random(), Wanda(), Ria(), SparseGpt(), Alps(iterations=9)]


@pytest.fixture
def batches(task, tmp_path):
    pool = collect(task, [PoolEntry("bba", 6)], seed=0, folder=tmp_path, workers=1)
    return PoolDataModule(
        {task.name: task}, {task.name: pool}, batch_size=2, batches_per_epoch=1, seed=0
    ).calibration_batches(6, batch_size=4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_matrices_are_pruned_exactly_and_nothing_else_changes(task, batches, architecture, method):
    policy = make_policy(task, architecture)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    report = prune_module(policy, Pruning(method), 0.4, batches, progress=False)
    matrices = {f"decoder.{name}.weight" for name in prunable_layers(policy.decoder)}
    assert len(report) == len(matrices)
    assert sum(row.zeros for row in report) == round(0.4 * sum(row.weights for row in report))
    for row in report:
        assert abs(row.zeros - 0.4 * row.weights) < 1
        assert row.error is not None
        assert 0 < row.error < 1
        assert row.cosine is not None
        assert 0.3 < row.cosine < 1
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in matrices)


@pytest.mark.parametrize("allocation", ["owl", "sensitivity", "global"])
def test_the_total_is_exact_whatever_the_allocation(task, batches, allocation):
    policy = make_policy(task, ARCHITECTURES["llama"])
    report = prune_module(policy, Pruning(Wanda(), allocation=allocation, spread=0.1), 0.537, batches, progress=False)
    assert sum(row.zeros for row in report) == round(0.537 * sum(row.weights for row in report))
    assert len({round(row.sparsity, 3) for row in report}) > 1


def test_sparsity_zero_changes_no_bit(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    before = copy.deepcopy(policy.state_dict())
    for method in METHODS:
        prune_module(policy, Pruning(method), 0.0, batches)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_block_is_calibrated_on_what_the_pruned_blocks_before_it_give(task, batches):
    """Against the obvious way: hooks on the whole model, one run per block."""
    policy = make_policy(task, ARCHITECTURES["llama"])
    slow = make_policy(task, ARCHITECTURES["llama"])
    prune_module(policy, Pruning(Wanda()), 0.5, batches, progress=False)
    layers = prunable_layers(slow.decoder)
    prune_by_hooks(slow, batches, {row.name: row.zeros for row in zero_counts(prunable_layers(policy.decoder))})
    for name, layer in layers.items():
        assert torch.equal(layer.weight == 0, prunable_layers(policy.decoder)[name].weight == 0), name


def test_one_batch_or_many_give_the_same_masks(task, batches):
    """Statistics are sums: how the windows are cut into batches does not matter."""
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in ("return_to_go", "action", "valid")} | {
        "observation": {n: torch.cat([b["observation"][n] for b in batches]) for n in batches[0]["observation"]}
    }
    masks = []
    for data in (batches, [joined]):
        policy = make_policy(task, ARCHITECTURES["llama"])
        prune_module(policy, Pruning(SparseGpt()), 0.5, data, progress=False)
        masks.append([layer.weight == 0 for layer in prunable_layers(policy.decoder).values()])
    differing = sum(int((a ^ b).sum()) for a, b in zip(*masks, strict=True))
    assert differing <= 4  # ties that float sums in another order break otherwise


def test_one_block_at_a_time_is_on_the_device(task, batches, monkeypatch):
    """Nothing else is moved, and the masks are those of pruning in place."""
    policy, place = make_policy(task, ARCHITECTURES["mistral"]), make_policy(task, ARCHITECTURES["mistral"])
    moves, home, away = [], torch.device("cpu"), torch.device("cpu", 0)  # the same memory by two names
    to = torch.nn.Module.to

    def record(module, device):
        moves.append((list(policy.decoder.layers).index(module), device))
        return to(module, device)

    monkeypatch.setattr(torch.nn.Module, "to", record)
    prune_module(policy, Pruning(SparseGpt(), allocation="owl"), 0.5, batches, progress=False, device=away)
    monkeypatch.undo()
    there_and_back = [(number, device) for number in range(3) for device in (away, home)]
    assert moves == 2 * there_and_back  # to allocate, to prune
    prune_module(place, Pruning(SparseGpt(), allocation="owl"), 0.5, batches, progress=False)
    for name, value in place.state_dict().items():
        assert torch.equal(value, policy.state_dict()[name])


def test_padding_does_not_count(task, batches):
    """Steps after the end of an episode, whatever stands there, leave the masks as they are."""
    pruned = []
    for noise in (0.0, 5.0):
        for batch in batches:
            batch["valid"][:, 30:] = False
            batch["return_to_go"][:, 30:] = noise
        policy = make_policy(task, ARCHITECTURES["llama"])
        prune_module(policy, Pruning(Wanda()), 0.4, batches, progress=False)
        pruned.append(policy.state_dict())
    assert all(torch.equal(value, pruned[1][name]) for name, value in pruned[0].items())


def test_the_error_of_a_layer_is_that_of_its_output(task, batches):
    """The first layer, whose inputs pruning does not change, against a direct computation."""
    policy = make_policy(task, ARCHITECTURES["llama"])
    layer = prunable_layers(policy.decoder)["layers.0.self_attn.q_proj"]
    before, seen = layer.weight.data.clone(), []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        for batch in batches:
            policy.hidden(policy.encoder.embed(batch["observation"]), batch["return_to_go"], batch["action"])
    handle.remove()
    row = prune_module(policy, Pruning(Magnitude()), 0.6, batches, progress=False)[0]
    inputs = torch.cat(seen)
    dense, sparse = inputs @ before.T, inputs @ layer.weight.data.T
    exact = float((sparse - dense).square().sum() / dense.square().sum())
    assert row.name == "layers.0.self_attn.q_proj"
    assert row.error == pytest.approx(exact, rel=0.25)  # a sample of the tokens


def test_text_takes_the_place_of_windows(task, batches):
    """Other inputs, other masks; encoder and pool are not needed."""
    policies = []
    for text in (None, torch.randn(4, 20, 32, generator=torch.Generator().manual_seed(0))):
        policy = make_policy(task, ARCHITECTURES["llama"])
        prune_module(policy, Pruning(Wanda()), 0.5, batches if text is None else [], text=text, progress=False)
        policies.append(policy)
    masks = [[layer.weight == 0 for layer in prunable_layers(policy.decoder).values()] for policy in policies]
    assert any(not torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_the_adapter_may_stay_dense_next_to_the_pruned_base(task, batches, architecture):
    policy = make_policy(task, architecture)
    Lora(rank=4).attach(policy.decoder, seed=0)
    adapters = {n: p.clone() for n, p in policy.named_parameters() if "lora_" in n}
    report = prune_module(policy, Pruning(Wanda(), lora="prune_base_keep_adapter"), 0.4, batches, progress=False)
    assert sum(row.zeros for row in report) == round(0.4 * sum(row.weights for row in report))
    assert not any("lora_" in row.name for row in report)
    parameters = dict(policy.named_parameters())
    assert adapters
    assert all(torch.equal(parameters[name], value) for name, value in adapters.items())


def test_encoder_and_head_are_pruned_only_if_asked(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    report = prune_module(policy, Pruning(Wanda(), also=["encoder", "head"]), 0.5, batches, progress=False)
    outside = [row for row in report if row.name.startswith("tasks.abr.")]
    assert {row.name.split(".")[2] for row in outside} == {"encoder", "head"}
    assert all(row.zeros == round(0.5 * row.weights) for row in outside)


def test_the_control_passes_the_input_on(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    prune_module(policy, Pruning(Zero()), 1.0, batches, progress=False)
    hidden = torch.randn(2, 6, 32)
    block = policy.decoder.layers[0]
    positions = policy.decoder.rotary_emb(hidden, position_ids=torch.arange(6)[None])
    assert torch.equal(block(hidden, position_embeddings=positions), hidden)


def test_a_pruned_backbone_is_pruned_again_only_by_force_and_never_back(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    prune_module(policy, Pruning(Magnitude(), allocation="global"), 0.4, batches, progress=False)
    masks = {name: layer.weight == 0 for name, layer in prunable_layers(policy.decoder).items()}
    with pytest.raises(UserError, match=r"pruned already.*pruning\.force"):
        prune_module(policy, Pruning(Wanda()), 0.6, batches, progress=False)
    with pytest.raises(UserError, match="never goes back"):
        prune_module(policy, Pruning(Wanda(), force=True), 0.2, batches, progress=False)
    report = prune_module(policy, Pruning(Wanda(), force=True), 0.6, batches, progress=False)
    assert sum(row.zeros for row in report) == round(0.6 * sum(row.weights for row in report))
    for name, layer in prunable_layers(policy.decoder).items():
        assert bool((layer.weight[masks[name]] == 0).all())


@pytest.mark.parametrize(
    ("options", "sparsity", "override"),
    [
        ({"structure": "2:4"}, 0.4, "sparsity=0.5"),
        ({"structure": "5:10"}, 0.5, r"pruning\.structure=5:10.*32 inputs"),
        ({"structure": "2:4", "allocation": "owl"}, 0.5, r"pruning\.allocation=uniform"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_weight_is_touched(task, batches, options, sparsity, override):
    policy = make_policy(task, ARCHITECTURES["llama"])
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(UserError, match=override):
        prune_module(policy, Pruning(Wanda(), **options), sparsity, batches)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_calibration_that_is_empty_or_not_finite_names_the_override(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(UserError, match=r"pruning\.windows"):
        prune_module(policy, Pruning(Wanda()), 0.4, [])
    batches[1]["return_to_go"][0, 3] = float("nan")
    with pytest.raises(UserError, match=r"pruning\.calibration"):
        prune_module(policy, Pruning(Wanda()), 0.4, batches)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


@pytest.mark.parametrize("structure", ["4:2", "2:2", "0:4", "2-4", "dense"])
def test_a_structure_that_is_none_is_refused(structure):
    with pytest.raises(ValueError, match="N:M"):
        Pruning(Wanda(), structure=structure)


def test_a_lost_zero_is_noticed(task, batches):
    policy = make_policy(task, ARCHITECTURES["llama"])
    report = prune_module(policy, Pruning(Magnitude()), 0.4, batches, progress=False)
    wanted = {f"decoder.{row.name}": row.zeros for row in report}
    assert_zeros(policy, wanted)
    layer = next(iter(prunable_layers(policy.decoder).values()))
    weight = weight_out_in(layer)
    weight[weight == 0] = 1.0
    with pytest.raises(UserError, match="zeros"):
        assert_zeros(policy, wanted)


def test_labels_tell_choices_apart():
    assert Pruning(Wanda()).label == "wanda"
    assert Pruning(Magnitude("row"), structure="2:4").label == "magnitude per row 2:4"
    assert Pruning(SparseGpt(), allocation="owl", calibration="text").label == "sparsegpt owl on text"


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (Pruning(Wanda()), "wanda"),
        (Pruning(Wanda(), windows=4, allocation="owl"), "wanda owl windows=4"),
        (Pruning(SparseGpt(block=32), structure="2:4"), "sparsegpt block=32 2:4"),
        (Pruning(Magnitude(scope="row")), "magnitude per row"),
    ],
)
def test_a_label_tells_every_option_that_is_not_the_default(options, label):
    assert options.label == label
