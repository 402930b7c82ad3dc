"""Learning goes on where it was interrupted, in whatever shards a batch is computed; a checkpoint becomes a module again."""

from __future__ import annotations

import copy

import lightning as L
import pytest
import torch
from small import ARCHITECTURES, make_policy, make_task

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.adapters import Lora, cast_frozen_linears, merge
from edgenetllm.models.backbone import RandomBackbone
from edgenetllm.models.checkpoint import BestCheckpoint, LastCheckpoint
from edgenetllm.models.decoder import linear_layers, prunable_layers
from edgenetllm.models.module import CHECKED_EVERY, AdaptationModule
from edgenetllm.models.policy import build_policy
from edgenetllm.models.stored import seal_checkpoint
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.sparsegpt import SparseGpt

OPTIONS = {"adapter_lr": 1e-3, "task_lr": 2e-3, "weight_decay": 0.01, "warmup_steps": 1, "total_steps": 8}


def given(tasks, rank: int = 2, seed: int = 0) -> dict:
    """The objects that a checkpoint does not hold: the backbone with its adapters attached, its identity, the tasks."""
    backbone = RandomBackbone("tiny", dict(ARCHITECTURES["llama"]), seed, None).load()
    Lora(rank=rank).attach(backbone.decoder, seed=0)
    policy = build_policy(backbone.decoder, tasks, backbone.embedding_rms)
    return {"policy": policy, "tasks": tasks, "backbone": backbone.identity}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit with the pruning callback: its module, its data, its callback, and where its checkpoints lie."""
    torch.set_num_threads(1)
    task, folder = make_task(), tmp_path_factory.mktemp("fit")
    pool = collect(task, [PoolEntry("bba", 8)], seed=0, folder=folder / "pool", workers=1)
    data = PoolDataModule({"abr": task}, {"abr": pool}, batch_size=4, batches_per_epoch=4, seed=0)
    module = AdaptationModule(**given({"abr": task}), target_returns={"abr": 1.5}, **OPTIONS)
    pruning = OneShotPruning(SparseGpt(), 0.5, windows=6, progress=False)
    best = BestCheckpoint(folder, f"val/{task.metric.name}", "max" if task.metric.higher_is_better else "min")
    trainer = L.Trainer(
        max_epochs=2, callbacks=[pruning, best, LastCheckpoint(folder)], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module, data, pruning, folder


def test_a_checkpoint_becomes_a_module_again_and_prunes_to_the_same_bits(fitted):
    """The callback leaves the same bits as merging and pruning the best checkpoint by hand."""
    module, data, pruning, folder = fitted
    loaded = AdaptationModule.load_from_checkpoint(folder / "best.ckpt", **given(module.tasks), weights_only=True)
    stored = torch.load(folder / "best.ckpt", weights_only=True)
    assert stored["hyper_parameters"] == {**OPTIONS, "task_weights": None}
    assert {name: loaded.hparams[name] for name in OPTIONS} == OPTIONS
    assert loaded.target_returns == {"abr": 1.5}
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in stored["state_dict"].items())
    assert any("lora_" in name for name in stored["state_dict"])
    merge(loaded.decoder)
    by_hand = OneShotPruning(SparseGpt(), 0.5, windows=6, progress=False)
    by_hand.apply(loaded.policy, data.calibration_batches(6))
    assert by_hand.report == pruning.report
    assert sum(row.zeros for row in pruning.report) == round(0.5 * sum(row.weights for row in pruning.report))
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert len(prunable_layers(module.decoder)) == len(pruning.report)


def test_an_option_of_a_checkpoint_can_be_replaced(fitted):
    module, _, _, folder = fitted
    path, objects = folder / "best.ckpt", given(module.tasks)
    loaded = AdaptationModule.load_from_checkpoint(path, "cpu", **objects, task_lr=0.5, target_returns={"abr": 2.5})
    assert (loaded.task_lr, loaded.adapter_lr, loaded.target_returns) == (0.5, 1e-3, {"abr": 2.5})


def test_a_checkpoint_of_something_else_is_refused(fitted, tmp_path):
    module, _, _, folder = fitted
    tasks, path = module.tasks, folder / "best.ckpt"
    other = given(tasks)
    cast_frozen_linears(other["policy"].decoder, torch.bfloat16)
    for objects, message in (
        (given(tasks, rank=3), "does not fit this model"),
        (given(tasks, seed=1), "made for backbone"),
        (other, r"frozen matrices in \['float32'\].*are \['bfloat16'\]"),
        ({**given(tasks), "weights_only": False}, "never unpickled"),
        ({**given(tasks), "learning_rate": 1.0}, "learning_rate"),
    ):
        with pytest.raises(UserError, match=message):
            AdaptationModule.load_from_checkpoint(path, **objects)
    stored = torch.load(path, weights_only=True)
    altered = {**stored, "hyper_parameters": {**OPTIONS, "task_lr": 1.0}}
    torch.save(altered, tmp_path / "altered.ckpt")
    with pytest.raises(UserError, match=r"altered\.ckpt: the checkpoint is damaged or was altered"):
        AdaptationModule.load_from_checkpoint(tmp_path / "altered.ckpt", **given(tasks))
    old = {key: copy.deepcopy(stored[key]) for key in ("state_dict", "backbone", "target_return")}
    seal_checkpoint(old)  # as earlier versions wrote them
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"does not say adapter_lr, .*give them"):
        AdaptationModule.load_from_checkpoint(tmp_path / "old.ckpt", **given(tasks))
    loaded = AdaptationModule.load_from_checkpoint(tmp_path / "old.ckpt", **given(tasks), **OPTIONS)
    assert loaded.trained() == {name: value.shape for name, value in stored["state_dict"].items()}


def test_the_frozen_matrices_are_rounded_as_they_were(fitted, tmp_path):
    module, _, _, folder = fitted
    stored = torch.load(folder / "best.ckpt", weights_only=True)
    rounded = {**stored, "frozen": ["bfloat16"]}
    seal_checkpoint(rounded)
    torch.save(rounded, tmp_path / "bf16.ckpt")
    loaded = AdaptationModule.load_from_checkpoint(tmp_path / "bf16.ckpt", **given(module.tasks))
    layers = linear_layers(loaded.decoder)
    assert {layer.weight.dtype for name, layer in layers.items() if "lora_" in name} == {torch.float32}
    assert {layer.weight.dtype for name, layer in layers.items() if "lora_" not in name} == {torch.bfloat16}


def test_a_checkpoint_of_several_tasks_becomes_a_module_again(task, tmp_path):
    """Two tasks of one kind, for the shape of the checkpoint alone."""
    both, targets = {"abr": task, "other": task}, {"abr": 1.0, "other": 2.0}
    module = AdaptationModule(**given(both), target_returns=targets, task_weights={"abr": 3.0, "other": 1.0}, **OPTIONS)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "both.ckpt")
    loaded = AdaptationModule.load_from_checkpoint(tmp_path / "both.ckpt", **given(both))
    assert (loaded.target_returns, loaded.task_lr) == (targets, OPTIONS["task_lr"])
    assert loaded.fractions == {"abr": 0.75, "other": 0.25}
    stored = module.state_dict()
    assert all(torch.equal(loaded.state_dict()[name], stored[name]) for name in module.trained())


def test_a_run_of_accumulated_batches_goes_on_after_an_epoch(task, tmp_path):
    """The first shard of the first batch then has a step count at which the loss is checked, and no loss yet."""
    pool = collect(task, [PoolEntry("bba", 8)], seed=0, folder=tmp_path / "pool", workers=1)

    def fit(epochs: int, start: str | None = None) -> int:
        module = AdaptationModule(
            make_policy(task, dict(ARCHITECTURES["llama"])), {"abr": task},
            backbone={"name": "tiny", "hash": "", "layers": 2}, target_returns={"abr": 1.0},
            adapter_lr=1e-3, task_lr=1e-3, weight_decay=0.0, warmup_steps=1, total_steps=2 * CHECKED_EVERY,
        )  # fmt: skip
        data = PoolDataModule(
            {"abr": task}, {"abr": pool}, batch_size=4, batches_per_epoch=CHECKED_EVERY, seed=0, accumulate=2
        )
        trainer = L.Trainer(
            max_epochs=epochs, accumulate_grad_batches=2, callbacks=[LastCheckpoint(tmp_path)], accelerator="cpu",
            logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        return trainer.global_step

    assert fit(1) == CHECKED_EVERY
    assert fit(2, str(tmp_path / "last.ckpt")) == 2 * CHECKED_EVERY
