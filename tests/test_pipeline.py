"""The three commands as a user types them, with a tiny model: in seconds, in their own processes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from typed import call, command, runs, surroundings

from edgenetllm.config import load_task
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.experience.rollout import play
from edgenetllm.models.module import AdaptationModule
from edgenetllm.reporting.results import Results

TINY = ["experiment=debug", "callbacks.progress_bar=false", "trainer.threads=1"]
ABR = [*TINY, "data.val=6", "data.test=20"]  # what most of the time goes into is playing


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with one finished training run, logged to W&B offline."""
    folder = tmp_path_factory.mktemp("pipeline")
    output = call("train.py", folder, *ABR, "logger=wandb")
    assert "retention" in output
    for policy in ("dense", "sparse", "bba", "robustmpc", "pensieve_fcc"):
        assert policy in output
    return folder


def test_a_run_leaves_everything_that_it_promises(trained):
    run = runs(trained, "train")[0]
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "finished"
    results = Results.load(run / "results.json")
    assert results.sparsity == 0.4
    assert results.policies["sparse"]["test/qoe"].n == 20
    layers = results.pruning["layers"].values()
    assert sum(row["zeros"] for row in layers) == round(0.4 * sum(row["weights"] for row in layers))
    assert all(0 < row["error"] < 1 and 0 < row["cosine"] < 1 for row in layers)
    assert "down_proj" in (run / "layers.md").read_text()
    for name in ("replay.parquet", "table.md", "plots/qoe_cdf.png", "plots/timeline.png", "bundle/manifest.json"):
        assert (run / name).stat().st_size > 0
    assert list((run / "wandb").glob("offline-run-*"))


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
        assert layer.zeros == int((bundle.tensors[name] == 0).sum())


def test_prune_reuses_the_adaptation_and_changes_only_what_is_typed(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "sparsity=0.6", "pruning=magnitude", "logger=csv")
    run = runs(trained, "prune")[-1]
    results = Results.load(run / "results.json")
    assert (results.sparsity, results.pruning["method"]) == (0.6, "magnitude")
    before, after = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (parent, run))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"sparsity", "pruning", "run", "logger"}
    dense = [Results.load(folder / "results.json").policies["dense"]["test/qoe"].mean for folder in (parent, run)]
    assert dense[0] == pytest.approx(dense[1])


def test_another_sparsity_finds_the_adaptation_and_what_was_played(trained):
    """Train again with other pruning: nothing is learnt, and dense model and baselines are not played again."""
    before = sorted((trained / "cache" / "replays").glob("*.npz"))
    output = call("train.py", trained, *ABR, "sparsity=0.6", "pruning=sparsegpt", "recovery=bias_norm", "logger=csv")
    assert "adaptation: found" in output
    run = runs(trained, "train")[-1]
    first, second = (Results.load(folder / "results.json") for folder in (runs(trained, "train")[0], run))
    assert not (run / "checkpoints").exists()
    assert first.policies["dense"] == second.policies["dense"]
    assert sorted((trained / "cache" / "replays").glob("*.npz")) == before
    assert second.recovery["method"] == "bias_norm"
    assert second.recovery["trained_parameters"] == 5 * 32  # two norms a block and the last one
    call("prune.py", trained, f"run={run}", "sparsity=0.7", "logger=csv")  # and it can be pruned from like any other


def test_a_pruned_run_is_pruned_further_only_by_force_and_never_back(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "sparsity=0.5", "pruning=wanda", "logger=csv")
    pruned = runs(trained, "prune")[-1]
    output = call("prune.py", trained, f"run={pruned}", "sparsity=0.8", "logger=csv", ok=False)
    assert "is pruned already (wanda, 50%)" in output
    assert "pruning.force=true" in output
    output = call("prune.py", trained, f"run={pruned}", "sparsity=0.3", "pruning.force=true", "logger=csv", ok=False)
    assert "never goes back" in output
    call("prune.py", trained, f"run={pruned}", "sparsity=0.8", "pruning.force=true", "logger=csv")
    first, second = (read_bundle(folder / "bundle").tensors for folder in (pruned, runs(trained, "prune")[-1]))
    for name, layer in read_bundle(pruned / "bundle").manifest.sparsity.items():
        assert layer.zeros > 0
        assert bool((second[name][first[name] == 0] == 0).all())


def test_an_adapter_beside_the_pruned_base_travels_and_counts(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "pruning.lora=prune_base_keep_adapter", "logger=csv")
    run = runs(trained, "prune")[-1]
    results, merged = (Results.load(folder / "results.json") for folder in (run, parent))
    assert results.bundle["bytes"] > merged.bundle["bytes"]
    assert any("lora_A" in name for name in read_bundle(run / "bundle").tensors)
    call("evaluate.py", trained, f"run={run}", "data.test=5", "logger=csv")


def test_the_control_has_no_backbone(trained):
    parent = runs(trained, "train")[0]
    call(
        "prune.py",
        trained,
        f"run={parent}",
        "pruning=zero",
        "sparsity=1",
        "recovery=specialise",
        "recovery.steps=4",
        "logger=csv",
    )
    results = Results.load(runs(trained, "prune")[-1] / "results.json")
    assert results.sparsity == 1
    assert results.bundle["zeros"] == results.bundle["weights"]


def test_pruning_that_does_not_fit_is_refused_before_anything_is_learnt(trained):
    before = runs(trained, "train")
    output = call("train.py", trained, *ABR, "pruning.structure=2:4", "seed=77", ok=False)
    assert "pruning.structure=2:4 keeps 2 of 4: type sparsity=0.5" in output
    assert not [run for run in runs(trained, "train") if run not in before and (run / "checkpoints").exists()]


def test_evaluate_replays_the_bundle_on_other_data(trained):
    parent = runs(trained, "train")[0]
    call("evaluate.py", trained, f"run={parent}", "data.seed=5", "data.test=12", "logger=csv")
    results = Results.load(runs(trained, "evaluate")[-1] / "results.json")
    assert results.stage == "evaluate"
    assert results.policies["sparse"]["test/qoe"].n == 12
    # Beside the baseline that is tuned on this data's own validation traces stands one that knows what the model knew.
    own = {name for name in Results.load(parent / "results.json").policies if "tuned" in name}
    assert {name for name in results.policies if "tuned" in name} == {*own, "robustmpc_tuned_on_run"}
    task, other = (load_task(yaml.safe_load((run / "config.yaml").read_text())) for run in (Path(results.run), parent))
    policy, teacher = task.tuned_as(other), other.teacher()
    assert (policy.bandwidth_scale, policy.error_weight) == (teacher.bandwidth_scale, teacher.error_weight)
    played = play(task.environment("test"), task.seeds("test"), policy)
    assert results.policies[policy.name]["test/qoe"].mean == pytest.approx(played.reward.mean())


def test_the_same_replay_gives_the_same_numbers(trained):
    parent = runs(trained, "train")[0]
    call("evaluate.py", trained, f"run={parent}", "logger=csv")
    again = Results.load(runs(trained, "evaluate")[-1] / "results.json")
    assert again.policies == Results.load(parent / "results.json").policies


def test_a_sweep_prunes_one_adaptation_many_times(trained):
    parent = runs(trained, "train")[0]
    call(
        "prune.py",
        trained,
        "-m",
        f"run={parent}",
        "sweep=sparsity",
        "sparsity=0.3,0.7",
        "logger=csv",
        "evaluation.plots=false",
    )
    swept = [Results.load(path) for path in sorted(trained.glob("logs/multirun/*/*/results.json"))]
    assert {(r.sparsity, r.pruning["method"]) for r in swept} == {
        (sparsity, method) for sparsity in (0.3, 0.7) for method in ("wanda", "magnitude")
    }


def test_the_bundles_sparsity_is_not_the_users_to_state(trained):
    parent = runs(trained, "train")[0]
    output = call("evaluate.py", trained, f"run={parent}", "sparsity=0.2", "logger=csv", ok=False)
    assert "the bundle has 0.4; prune.py makes another" in output


def test_an_adapter_of_another_shape_is_refused(trained):
    parent = runs(trained, "train")[0]
    output = call("prune.py", trained, f"run={parent}", "adapter.rank=4", "logger=csv", ok=False)
    assert "the checkpoint does not fit this model" in output


def test_a_run_can_be_moved_and_its_data_too(trained, tmp_path):
    """A fitted run, moved and marked as interrupted, goes on where it lies now; locations are those of the new call."""
    moved = tmp_path / "logs" / "train" / "moved"
    shutil.copytree(runs(trained, "train")[0], moved)
    state = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(state | {"status": "running"}))
    call("train.py", tmp_path, *ABR, "logger=csv", f"resume={moved}")
    before, after = (Results.load(run / "results.json").policies for run in (runs(trained, "train")[0], moved))
    assert after["sparse"] == before["sparse"]
    config = yaml.safe_load((moved / "config.yaml").read_text())
    assert config["paths"]["cache_dir"] == f"{tmp_path}/cache"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sparcity=0.4"], "Did you mean 'sparsity'"),
        (["sparsity=1.0", *ABR], "sparsity=1.0"),
        (["model=llama2", "budget=debug", "logger=csv"], "model.path=/folder/of/llama2"),
        (["resume=true", *ABR, "seed=99"], "no unfinished run"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing(tmp_path, overrides, message):
    output = call("train.py", tmp_path, *overrides, ok=False)
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("logs/train/*/bundle"))


@pytest.mark.parametrize("script", ["prune.py", "evaluate.py"])
def test_a_run_that_is_none_is_named(tmp_path, script):
    assert "not the folder of a run" in call(script, tmp_path, f"run={tmp_path}", ok=False)


def test_dry_run_prints_the_work_and_does_none(tmp_path):
    output = call("train.py", tmp_path, *ABR, "dry_run=true")
    for word in ("parameters", "trainable", "tokens", "memory", "bundle"):
        assert word in output
    assert not list(tmp_path.glob("logs/train/*/run.json"))


# Long enough to be interrupted between two checkpoints; what it then plays is not what is asked here.
LONG = [*ABR, "budget.epochs=4", "budget.batches_per_epoch=40", "evaluation.plots=false"]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("left_alone")
    call("train.py", folder, *LONG)
    return runs(folder, "train")[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_same_metrics(left_alone, tmp_path, how):
    """Kill a run after its first checkpoint, go on, and compare with one that was left alone."""
    process = subprocess.Popen(
        command("train.py", tmp_path, *LONG, "logger=wandb"),
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("logs/train/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(how)
    process.wait(60)
    assert process.returncode != 0
    interrupted = runs(tmp_path, "train")[0]
    state = json.loads((interrupted / "run.json").read_text())
    assert state["status"] == ("running" if how == signal.SIGKILL else "interrupted")
    output = call("train.py", tmp_path, *LONG, "logger=wandb", "resume=true")
    assert re.search(r"run: .*" + interrupted.name, output)
    assert json.loads((interrupted / "run.json").read_text())["id"] == state["id"]
    resumed, straight = (Results.load(run / "results.json").policies for run in (interrupted, left_alone))
    for policy in ("dense", "sparse"):
        assert resumed[policy]["test/qoe"].mean == pytest.approx(straight[policy]["test/qoe"].mean, abs=1e-6)
