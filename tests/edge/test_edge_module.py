"""A bundle in a Trainer: the test is the replay, and the export follows the pruning."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_policy
from torch.utils.data import DataLoader

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.callback import ExportBundle
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.export import export_policy
from edgenetllm.edge.module import EdgeModule
from edgenetllm.edge.replay import replay
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import EpisodeDataModule, PoolDataModule
from edgenetllm.models.adapters import Lora
from edgenetllm.models.decoder import prunable_layers
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.session import Session
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.magnitude import Magnitude
from edgenetllm.pruning.wanda import Wanda

OPTIONS = {"adapter_lr": 1e-2, "task_lr": 1e-2, "weight_decay": 0.0, "warmup_steps": 1, "total_steps": 2}


def quiet(**options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        **options,
    )  # fmt: skip


@pytest.fixture
def bundle(task, tmp_path):
    policy = make_policy(task, dict(ARCHITECTURES["llama"]))
    report = OneShotPruning(Magnitude(), 0.5, progress=False).apply(policy, calibration(task, tmp_path))
    matrices = [f"decoder.{row.name}" for row in report]
    options = {"adapter": None, "values": "fp16", "target_returns": {"abr": 40.0}, "parent": {}}
    export_policy(policy, tmp_path / "bundle", matrices=matrices, **options)
    return tmp_path / "bundle"


def calibration(task, folder, windows: int = 2) -> list:
    return data_of(task, folder).calibration_batches(windows)


def data_of(task, folder) -> PoolDataModule:
    pool = collect(task, [PoolEntry("bba", 4)], seed=0, folder=folder / "pool", workers=1)
    return PoolDataModule({task.name: task}, {task.name: pool}, batch_size=2, batches_per_epoch=2, seed=0)


def figures(task, folder) -> dict[str, np.ndarray]:
    """As a run of `evaluate.py` gets them."""
    episodes = replay(task, "test", {"sparse": Session(*load_policy(folder, task), "sparse")}, progress=False)["sparse"]
    return task.summarise(episodes.record, episodes.reward, episodes.valid)


def test_the_test_of_a_trainer_is_the_replay_of_the_bundle(task, bundle):
    module = EdgeModule(bundle, task)
    logged = quiet().test(module, datamodule=EpisodeDataModule(task), verbose=False)[0]
    expected = figures(task, bundle)
    assert set(logged) == {f"test/{metric.name}" for metric in task.metrics}
    assert set(module.per_episode) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(module.per_episode[name], values)
        assert len(values) == len(task.seeds("test")) == 8
    for metric in task.metrics:
        assert logged[f"test/{metric.name}"] == np.float32(expected[metric.name].mean())
    assert len(set(module.per_episode[task.metric.name])) > 1


def test_batches_of_seeds_are_all_counted_and_a_second_test_begins_again(task, bundle):
    module, trainer = EdgeModule(bundle, task), quiet()
    seeds = DataLoader(torch.from_numpy(task.seeds("test")), batch_size=3)
    first = trainer.test(module, seeds, verbose=False)[0]
    expected = figures(task, bundle)[task.metric.name]
    np.testing.assert_allclose(module.per_episode[task.metric.name], expected, rtol=1e-4)
    assert trainer.test(module, seeds, verbose=False)[0] == first
    assert len(module.per_episode[task.metric.name]) == 8


def test_a_damaged_bundle_and_more_than_one_process_are_refused(task, bundle):
    trainer = quiet(devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match=r"plays in one process, and this Trainer has 2: Trainer\(devices=1\)"):
        trainer.test(EdgeModule(bundle, task), datamodule=EpisodeDataModule(task), verbose=False)
    (bundle / "dense.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"dense\.safetensors"):
        EdgeModule(bundle, task)


def module_of(task, adapter: Lora | None = None) -> AdaptationModule:
    policy = make_policy(task, dict(ARCHITECTURES["llama"]))
    if adapter is not None:
        adapter.attach(policy.decoder, seed=0)
    return AdaptationModule(
        policy, {task.name: task}, backbone={"name": "tiny", "hash": "0"}, target_returns={task.name: 40.0}, **OPTIONS
    )


@pytest.mark.parametrize("lora", ["merge_then_prune", "prune_base_keep_adapter"])
def test_a_fit_ends_with_the_bundle_of_what_was_pruned(task, tmp_path, lora):
    keeps, adapter = lora == "prune_base_keep_adapter", Lora(rank=2)
    pruning = OneShotPruning(Wanda(), 0.6, lora=lora, windows=2, progress=False)
    export = ExportBundle(tmp_path / "bundle", "fp32", adapter=adapter if keeps else None, parent={"of": "a test"})
    module = module_of(task, adapter)
    trainer = quiet(max_epochs=1, limit_val_batches=0, callbacks=[pruning, export])
    trainer.fit(module, datamodule=data_of(task, tmp_path))
    policy, target_return = load_policy(tmp_path / "bundle", task)
    assert target_return == 40.0
    assert policy.state_dict().keys() == module.policy.state_dict().keys()
    assert all(torch.equal(value, module.policy.state_dict()[name]) for name, value in policy.state_dict().items())
    assert any("lora_" in name for name in policy.state_dict()) == keeps
    layers = prunable_layers(policy.decoder).values()
    zeros, weights = sum(int((one.weight == 0).sum()) for one in layers), sum(one.weight.numel() for one in layers)
    assert zeros == round(0.6 * weights)
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.metrics == {"backbone": {"name": "tiny", "hash": "0"}, "epochs": 1, "of": "a test"}
    assert export.sizes["bytes"] == sum(path.stat().st_size for path in (tmp_path / "bundle").iterdir())


def test_what_cannot_be_exported_is_refused_before_the_fit(task, tmp_path):
    (tmp_path / "notes").mkdir()
    pruning, export = OneShotPruning(Wanda(), 0.6, progress=False), ExportBundle(tmp_path / "bundle")
    for callbacks, message in (
        ([export, pruning], r"needs one OneShotPruning before it"),
        ([export], r"needs one OneShotPruning before it"),
        ([pruning, OneShotPruning(Wanda(), 0.6), export], r"needs one OneShotPruning before it"),
        ([pruning, ExportBundle(tmp_path / "bundle", adapter=Lora())], r"prune_base_keep_adapter"),
        ([pruning, ExportBundle(tmp_path / "notes")], "exists and is no bundle"),
    ):
        with pytest.raises(UserError, match=message):
            quiet(max_epochs=1, callbacks=callbacks).fit(module_of(task), datamodule=data_of(task, tmp_path))
    with pytest.raises(UserError, match="not of a LightningModule"):
        export.on_fit_start(quiet(callbacks=[pruning, export]), L.LightningModule())
    assert not (tmp_path / "bundle").exists()
