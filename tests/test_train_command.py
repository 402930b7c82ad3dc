"""train.py as a user types it, with a tiny model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from typed import ABR, call, runs

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.models.module import AdaptationModule
from edgenetllm.report.results import Results


def test_a_run_leaves_everything_that_it_promises(trained):
    run = runs(trained, "train")[0]
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "finished"
    results = Results.load(run / "abr/results.json")
    assert results.sparsity == 0.4
    assert results.policies["sparse"]["test/qoe"].n == 20
    layers = results.pruning["layers"].values()
    assert sum(row["zeros"] for row in layers) == round(0.4 * sum(row["weights"] for row in layers))
    assert all(0 < row["error"] < 1 and 0 < row["cosine"] < 1 for row in layers)
    assert "down_proj" in (run / "abr/layers.md").read_text()
    for name in (
        "abr/replay.parquet",
        "abr/table.md",
        "abr/plots/qoe_cdf.png",
        "abr/plots/timeline.png",
        "bundle/manifest.json",
    ):
        assert (run / name).stat().st_size > 0
    assert list((run / "wandb").glob("offline-run-*"))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    steps = ["budget.epochs=1", "budget.batches_per_epoch=20", "trainer.warmup_steps=0"]
    output = call(
        "train.py",
        tmp_path,
        *ABR,
        *steps,
        "trainer.task_lr=100",
        "trainer.adapter_lr=100",
        "trainer.gradient_clip=1e9",
        "logger=csv",
        ok=False,
    )
    assert "the loss is nan at step 10: lower trainer.adapter_lr" in output
    run = runs(tmp_path, "train")[0]
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert not (run / "checkpoints").exists()


def test_checkpoints_load_without_pickle_and_hold_only_what_was_trained(trained):
    checkpoint = torch.load(runs(trained, "train")[0] / "checkpoints/best.ckpt", weights_only=True)
    names = checkpoint["state_dict"]
    assert checkpoint["backbone"]["name"] == "tiny"
    assert all("lora_" in name for name in names if ".decoder." in name)
    assert any(".head." in name for name in names)
    assert AdaptationModule.__name__ not in str(checkpoint.keys())


def test_the_bundle_is_the_sparse_model(trained):
    bundle = read_bundle(runs(trained, "train")[0] / "bundle")
    assert bundle.manifest.task == "abr"
    for name, layer in bundle.manifest.sparsity.items():
        assert abs(layer.zeros - 0.4 * layer.numel) < 1
        assert layer.zeros == int((bundle.array(name) == 0).sum())


@pytest.mark.slow
def test_another_sparsity_finds_the_adaptation_and_what_was_played(trained):
    """Train again with other pruning: nothing is learnt, and dense model and baselines are not played again."""
    before = sorted((trained / "cache" / "replays").glob("*.npz"))
    output = call("train.py", trained, *ABR, "sparsity=0.6", "pruning=sparsegpt", "recovery=bias_norm", "logger=csv")
    assert "adaptation: found" in output
    run = runs(trained, "train")[-1]
    first, second = (Results.load(folder / "abr/results.json") for folder in (runs(trained, "train")[0], run))
    assert not (run / "checkpoints").exists()
    assert first.policies["dense"] == second.policies["dense"]
    assert sorted((trained / "cache" / "replays").glob("*.npz")) == before
    assert second.recovery["method"] == "bias_norm"
    assert second.recovery["trained_parameters"] == 5 * 32  # two norms a block and the last one
    call("prune.py", trained, f"run={run}", "sparsity=0.7", "logger=csv")  # and it can be pruned from like any other


def test_pruning_that_does_not_fit_is_refused_before_anything_is_learnt(trained):
    before = runs(trained, "train")
    output = call("train.py", trained, *ABR, "pruning.structure=2:4", "seed=77", ok=False)
    assert "pruning.structure=2:4 keeps 2 of 4: type sparsity=0.5" in output
    assert not [run for run in runs(trained, "train") if run not in before and (run / "checkpoints").exists()]


@pytest.mark.slow
def test_a_run_can_be_moved_and_its_data_too(trained, tmp_path):
    """A fitted run, moved and marked as interrupted, goes on where it lies now; locations are those of the new call."""
    moved = tmp_path / "logs" / "train" / "moved"
    shutil.copytree(runs(trained, "train")[0], moved)
    state = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(state | {"status": "running"}))
    call("train.py", tmp_path, *ABR, "logger=csv", f"resume={moved}")
    before, after = (Results.load(run / "abr/results.json").policies for run in (runs(trained, "train")[0], moved))
    assert after["sparse"] == before["sparse"]
    config = yaml.safe_load((moved / "config.yaml").read_text())
    assert config["paths"]["cache_dir"] == f"{tmp_path}/cache"


def test_a_mistyped_resume_leaves_a_finished_run_as_it_is(trained):
    run = runs(trained, "train")[0]
    before = (run / "run.json").read_bytes()
    output = call("train.py", trained, *ABR, "logger=wandb", "sparsity=0.6", f"resume={run}", ok=False)
    assert "was made with another configuration" in output
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sparcity=0.4"], "Did you mean 'sparsity'"),
        (["sparsity=1.0", *ABR], "sparsity=1: give a share"),
        (["model=llama2", "budget=debug", "logger=csv"], "model.path=/folder/of/llama2"),
        (["resume=true", *ABR, "seed=99"], "no unfinished run"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing(tmp_path, overrides, message):
    output = call("train.py", tmp_path, *overrides, ok=False)
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("logs/train/*/bundle"))


def test_dry_run_prints_the_work_and_does_none(tmp_path):
    output = call("train.py", tmp_path, *ABR, "dry_run=true")
    for word in ("parameters", "trainable", "tokens", "memory", "bundle"):
        assert word in output
    assert not list(tmp_path.glob("logs/train/*/run.json"))
