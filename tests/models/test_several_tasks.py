"""One backbone for two tasks: what is shared is shared, what is a task's own stays its own, and it is pruned as one."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_task

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.engine import load_policy, load_whole_policy
from edgenetllm.edge.export import export_policy, policy_name, zeros_of_task
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.experience.objective import Objective, logged_name
from edgenetllm.experience.rollout import play
from edgenetllm.experience.task_weights import split_by_task, task_fractions
from edgenetllm.models.adapters import Lora, merge
from edgenetllm.models.decoder import build_decoder, prunable_layers
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.models.session import Session
from edgenetllm.pruning.calibration import record_inputs
from edgenetllm.pruning.oneshot import assert_zeros, prune_module
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.bias_norm import BiasNorm
from edgenetllm.pruning.recovery.masked_lora import MaskedLora
from edgenetllm.pruning.recovery.reconstruct import Reconstruct
from edgenetllm.pruning.recovery.recover import RecoveryContext, recover
from edgenetllm.pruning.recovery.specialise import Specialise
from edgenetllm.pruning.wanda import Wanda
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask
from edgenetllm.tasks.task import Task

STEPS = 47  # decisions of an ABR episode; also the segment of CJS here, so that sequences of both have one shape
RECOVERIES = [
    Specialise(steps=3),
    BiasNorm(steps=3),
    MaskedLora(rank=2, steps=3),
    Reconstruct(windows=4, batch_size=1, epochs=1),
]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    cjs = CjsTask("cjs", data, "pointer", window=5, segment=STEPS, validation=2, test=2)
    return {"abr": make_task(), "cjs": cjs}


@pytest.fixture(scope="module")
def context(tasks, tmp_path_factory) -> RecoveryContext:
    folder = tmp_path_factory.mktemp("pools")
    pools = {
        name: collect(tasks[name], [PoolEntry(policy, 6)], seed=0, folder=folder, workers=1)
        for name, policy in (("abr", "bba"), ("cjs", "fair"))
    }
    return RecoveryContext(tasks, pools, seed=1, progress=False)


def make_both(tasks, adapter: Lora | None = None) -> PolicyNetwork:
    torch.manual_seed(0)
    decoder = build_decoder(dict(ARCHITECTURES["llama"]))
    if adapter is not None:
        adapter.attach(decoder, seed=0)
    return build_policy(decoder, tasks, embedding_rms=0.5).eval()


def module_of(policy, tasks, weights: dict[str, float] | None = None) -> AdaptationModule:
    options = {"adapter_lr": 1e-3, "task_lr": 1e-3, "weight_decay": 0.0, "warmup_steps": 1, "total_steps": 2}
    return AdaptationModule(policy, tasks, backbone={}, target_returns={}, task_weights=weights, **options)


def hidden(policy, batch, task: str | None = None) -> torch.Tensor:
    embedded = policy.networks(task).encoder.embed(batch["observation"])
    return policy.hidden(embedded, batch["return_to_go"], batch["action"], task)


@torch.no_grad()
def test_a_task_is_played_as_by_a_policy_of_its_own_with_the_same_weights(tasks, context):
    policy = make_both(tasks)
    for batch in context.windows(4, 2):
        name = batch["task"]
        own = {name: tasks[name]}
        alone = build_policy(build_decoder(dict(ARCHITECTURES["llama"])), own, embedding_rms=0.5).eval()
        alone.load_state_dict(policy.of_task(name).state_dict())
        embedded = alone.encoder.embed(batch["observation"])
        ours, theirs = hidden(policy, batch, name), hidden(alone, batch)
        assert torch.equal(ours, theirs)
        assert torch.equal(policy.networks(name).head.logits(ours, embedded), alone.head.logits(theirs, embedded))
        assert float(policy.calibration_loss(batch)) == float(alone.calibration_loss(batch))


def test_every_weight_has_one_name_and_the_policy_of_a_task_shares_them(tasks):
    policy = make_both(tasks)
    state = policy.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert {name.split(".")[0] for name in state} == {"decoder", "tasks"}
    assert set(policy.task_parameters()) == {n for n in dict(policy.named_parameters()) if n.startswith("tasks.")}
    for name in tasks:
        own = policy.of_task(name)
        assert own.decoder is policy.decoder
        assert set(own.state_dict()) == {n for n in state if n.startswith(("decoder.", f"tasks.{name}."))}
        assert all(value.data_ptr() == state[n].data_ptr() for n, value in own.state_dict().items())
    other = copy.deepcopy(policy)
    assert other.decoder is not policy.decoder
    with pytest.raises(ValueError, match="abr, cjs: say which"):
        _ = policy.encoder


@pytest.mark.parametrize("learns", ["abr", "cjs"])
def test_a_task_moves_the_shared_adapter_and_its_own_encoder_and_head_only(tasks, context, learns):
    policy = make_both(tasks, Lora(rank=2))
    batch = next(iter(context.data(4, 1).train_dataloader()))
    policy.loss(batch[learns], batch[learns]["observation"], learns).backward()
    moved = {name for name, p in policy.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    adapters = {name for name, _ in policy.named_parameters() if "lora_B" in name}
    assert adapters <= moved  # A gets a gradient as soon as B, which begins at zero, is not zero
    assert {name.split(".")[1] for name in moved if name.startswith("tasks.")} == {learns}
    for own in ("encoder", "head", "return_to_go"):
        assert any(name.startswith(f"tasks.{learns}.{own}.") for name in moved), own


def test_a_step_learns_from_both_tasks_by_their_weights(tasks, context):
    weights = {"abr": 3.0, "cjs": 1.0}
    data = PoolDataModule(tasks, context.pools, batch_size=8, batches_per_epoch=2, seed=0, task_weights=weights)
    data.setup()
    batches = list(data.train_dataloader())
    sizes = [{name: len(of_task["valid"]) for name, of_task in batch.items()} for batch in batches]
    assert sizes == [{"abr": 6, "cjs": 2}] * 2
    policy = make_both(tasks, Lora(rank=2))
    alone = {name: policy.loss(batch, batch["observation"], name) for name, batch in batches[0].items()}
    loss = module_of(policy, tasks, weights).loss(batches[0])
    torch.testing.assert_close(loss, 0.75 * alone["abr"] + 0.25 * alone["cjs"])
    adapter = [p for name, p in policy.named_parameters() if "lora_B" in name]
    gradients = {name: torch.autograd.grad(value, adapter, retain_graph=True) for name, value in alone.items()}
    for number, both in enumerate(torch.autograd.grad(loss, adapter)):
        torch.testing.assert_close(both, 0.75 * gradients["abr"][number] + 0.25 * gradients["cjs"][number])


def test_a_batch_in_shards_has_the_loss_of_the_whole(tasks, context):
    module = module_of(make_both(tasks), tasks)

    def losses(accumulate: int) -> list[float]:
        options = {"batch_size": 8, "batches_per_epoch": 1, "seed": 0}
        data = PoolDataModule(tasks, context.pools, **options, accumulate=accumulate)
        data.setup()
        return [float(module.loss(batch).detach()) for batch in data.train_dataloader()]

    assert len(losses(2)) == 2
    assert np.mean(losses(2)) == pytest.approx(losses(1)[0], rel=1e-5)


@torch.no_grad()
def test_a_batch_for_training_calibrates_a_policy_of_one_task_and_is_refused_for_several(tasks, context):
    policy = make_both(tasks)
    batch = next(iter(context.data(4, 1).train_dataloader()))
    own = policy.of_task("abr")
    wanted = hidden(own, batch["abr"])
    assert torch.equal(own.calibration_step({"abr": batch["abr"]}), wanted)
    assert (
        own.calibration_mask({"abr": batch["abr"]}).sum()
        == own.networks().tokens_per_step * batch["abr"]["valid"].sum()
    )
    with pytest.raises(UserError, match="calibration takes batches of one task"):
        policy.calibration_step(batch)


@torch.no_grad()
def test_calibration_runs_each_block_as_the_task_runs_it(tasks, context, tmp_path):
    """Sequences of both tasks have one shape here and different masks: causal, and banded."""
    policy = make_both(tasks)
    batches = context.windows(4, 2)
    assert [batch["task"] for batch in batches] == ["abr", "cjs"]
    assert len({batch["action"].shape[:2] for batch in batches}) == 1
    inputs = record_inputs(policy.decoder, batches, policy.calibration_step, policy.calibration_mask, tmp_path)
    for block in policy.decoder.layers:
        inputs.advance(block)
    for number, batch in enumerate(batches):
        networks = policy.networks(batch["task"])
        through = policy.decoder.norm(inputs.read(number, torch.device("cpu")))
        wanted = hidden(policy, batch, batch["task"])
        given = through.reshape(*wanted.shape[:2], networks.tokens_per_step, -1)[:, :, -2]
        torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-4)


def test_both_tasks_say_what_is_pruned_and_the_zeros_are_exact(tasks, context):
    windows = context.windows(8, 2)
    pruned = {}
    for name, batches in (("both", windows), ("abr", [batch for batch in windows if batch["task"] == "abr"])):
        policy = make_both(tasks)
        before = copy.deepcopy(policy.state_dict())
        report = prune_module(policy, Pruning(Wanda(), also=["encoder"]), 0.4, batches, progress=False)
        layers = [row for row in report if not row.name.startswith("tasks.")]
        weights = sum(row.weights for row in layers)
        assert sum(row.zeros for row in layers) == round(0.4 * weights)
        assert sum(int((layer.weight == 0).sum()) for layer in prunable_layers(policy.decoder).values()) == round(
            0.4 * weights
        )
        assert {row.name.split(".")[1] for row in report if row.name.startswith("tasks.")} == {"abr", "cjs"}
        heads = [n for n in before if ".head." in n]
        assert all(torch.equal(before[n], policy.state_dict()[n]) for n in heads)
        pruned[name] = {n: layer.weight == 0 for n, layer in prunable_layers(policy.decoder).items()}
    assert any(not torch.equal(pruned["both"][n], pruned["abr"][n]) for n in pruned["both"])


def test_one_bundle_holds_the_backbone_once_and_plays_both_tasks(tasks, context, tmp_path):
    policy = make_both(tasks, Lora(rank=2))
    merge(policy.decoder)
    policy.requires_grad_(False)
    pruning = Pruning(Wanda(), also=["head"])
    report = prune_module(policy, pruning, 0.4, context.windows(4, 2), progress=False)
    targets = {"abr": 40.0, "cjs": 0.1}
    options = {"adapter": None, "values": "fp32", "target_returns": targets, "parent": {}}
    export_policy(policy, tmp_path / "b", matrices=[policy_name(row.name) for row in report], **options)
    manifest = read_bundle(tmp_path / "b").manifest
    assert manifest.task == "abr+cjs"
    assert set(manifest.tensors) == set(policy.state_dict())
    whole = load_whole_policy(tmp_path / "b", tasks)
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in whole.state_dict().items())
    for name, task in tasks.items():
        loaded, target = load_policy(tmp_path / "b", task)
        assert target == targets[name]
        zeros = zeros_of_task({row.name: {"zeros": row.zeros} for row in report}, list(tasks), name)
        assert any(layer.startswith(f"tasks.{name}.head.") for layer in zeros)
        assert_zeros(loaded, zeros)
        ours, theirs = (
            play(task.environment("val"), task.seeds("val"), Session(one, target, "sparse"))
            for one in (policy.of_task(name), loaded)
        )
        np.testing.assert_array_equal(ours.action, theirs.action)
        np.testing.assert_array_equal(ours.reward, theirs.reward)
    with pytest.raises(UserError, match=r"made for task abr\+cjs, not"):
        load_whole_policy(tmp_path / "b", {"abr": tasks["abr"]})


@pytest.mark.parametrize(
    "wrong",
    [{"num_attention_heads": 0}, {"hidden_act": "nope"}, {"hidden_size": -8}, {"hidden_size": "wide"},
     {"hidden_size": 1 << 20, "intermediate_size": 1 << 20}],
)  # fmt: skip
def test_a_bundle_with_an_impossible_model_is_refused_before_it_takes_memory(tasks, tmp_path: Path, wrong):
    alone = build_policy(build_decoder(dict(ARCHITECTURES["llama"])), {"abr": tasks["abr"]}, embedding_rms=0.5)
    options = {"adapter": None, "values": "fp32", "target_returns": {"abr": 1.0}, "parent": {}}
    export_policy(alone, tmp_path / "b", matrices=[], **options)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["model"] |= wrong
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        load_policy(tmp_path / "b", tasks["abr"])


def test_a_bundle_of_one_task_is_refused_for_several(tasks, tmp_path: Path):
    alone = build_policy(build_decoder(dict(ARCHITECTURES["llama"])), {"abr": tasks["abr"]}, embedding_rms=0.5)
    options = {"adapter": None, "values": "fp32", "target_returns": {"abr": 1.0}, "parent": {}}
    export_policy(alone, tmp_path / "b", matrices=[], **options)
    with pytest.raises(UserError, match=r"made for task abr, not abr\+cjs"):
        load_whole_policy(tmp_path / "b", tasks)
    with pytest.raises(UserError, match="made for task abr, not cjs"):
        load_policy(tmp_path / "b", tasks["cjs"])


def test_a_backbone_that_does_not_suit_one_of_the_tasks_is_refused(tasks):
    with pytest.raises(UserError, match="task=cjs needs a backbone with relative positions"):
        build_policy(build_decoder(dict(ARCHITECTURES["gpt2"])), tasks, embedding_rms=0.5)


@pytest.mark.parametrize("recovery", RECOVERIES, ids=lambda recovery: recovery.name)
def test_every_recovery_keeps_the_zeros_and_learns_from_both_tasks(tasks, context, recovery):
    dense = make_both(tasks)
    dense.requires_grad_(False)
    sparse = copy.deepcopy(dense)
    prune_module(sparse, Pruning(Wanda()), 0.6, context.windows(4, 2), progress=False)
    before = copy.deepcopy(sparse.state_dict())
    facts = recover(recovery, sparse, dense, context)  # raises where a zero was filled
    assert facts["trained_parameters"] > 0
    changed = {name for name, value in sparse.state_dict().items() if not torch.equal(value, before[name])}
    if recovery.name == "specialise":
        assert {".".join(name.split(".")[:2]) for name in changed} == {"tasks.abr", "tasks.cjs"}
    else:
        assert changed
        assert all(name.startswith("decoder.") for name in changed)


def test_the_gain_is_measured_against_the_teachers_in_each_metrics_direction(tasks):
    objective = Objective(tasks)
    objective.__dict__["teachers"] = {"abr": -2.0, "cjs": 100.0}
    assert objective.value({"abr": -2.0, "cjs": 100.0}) == 0
    assert objective.value({"abr": -1.0, "cjs": 100.0}) == pytest.approx(0.25)  # QoE: more is better, also below zero
    assert objective.value({"abr": -2.0, "cjs": 120.0}) == pytest.approx(-0.1)  # JCT: less is better


def test_the_objective_of_one_task_is_its_own_metric(tasks):
    objective = Objective({"cjs": tasks["cjs"]})
    assert objective.metric == tasks["cjs"].metric
    assert objective.value({"cjs": 120.0}) == 120.0


def test_a_metric_carries_the_name_of_its_task_where_another_has_it_too(tasks):
    assert logged_name(tasks, "abr", "qoe") == "qoe"
    assert logged_name({"cjs": tasks["cjs"], "other": tasks["cjs"]}, "other", "jct_s") == "other/jct_s"


@pytest.mark.parametrize("weights", [{"abr": 1, "cjs": 1}, {"abr": 1000, "cjs": 1}, {"abr": 1, "cjs": 2.5}, {"abr": 3}])
def test_counts_add_up_and_leave_no_task_out(weights):
    fractions = task_fractions(list(weights), weights)
    assert sum(fractions.values()) == pytest.approx(1)
    for total in range(len(weights), 40):
        counts = split_by_task(total, fractions, "trainer.batch_size")
        assert sum(counts.values()) == total
        assert min(counts.values()) >= 1
        exact = {name: total * fraction for name, fraction in fractions.items()}
        assert all(abs(counts[name] - max(1, exact[name])) <= 1 for name in counts)


def test_weights_and_batches_that_leave_a_task_out_are_refused():
    with pytest.raises(UserError, match=r"trainer\.batch_size=1: task=abr\+cjs needs at least 2"):
        split_by_task(1, {"abr": 0.5, "cjs": 0.5}, "trainer.batch_size")
    for weights in ({"abr": 1.0}, {"abr": 1.0, "cjs": 0.0}):
        with pytest.raises(UserError, match="give each of abr, cjs a positive number"):
            task_fractions(["abr", "cjs"], weights)
